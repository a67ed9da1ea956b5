"""Perplexity as other evaluators take it, against their loops written out with transformers' own loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.evaluator_plan import EvaluatorPlan, run_evaluator
from nemo_pi.evaluation.huggingface import HuggingFaceScorer

DOCUMENTS = [[(7 * i * i + 3 * i + k) % 250 for i in range(n)] for k, n in enumerate((41, 64, 33, 2))]
BOS = 256


def loop(
    model: LlamaForCausalLM, length: int, stride: int, truncate: bool, bos: bool
) -> list[tuple[float, int, int]]:
    """(mean loss, tokens advanced, labels) of every window, as yarn's, PoSE's and transformers' loops go."""
    room, found = length - bos, []
    for document in DOCUMENTS:
        ids = torch.tensor([document[:room] if truncate else document])
        before = 0
        for begin in range(0, ids.size(1), room if truncate else stride):
            end = min(begin + room, ids.size(1))
            window = ids[:, begin:end]
            if bos:
                window = torch.cat([torch.tensor([[BOS]]), window], dim=1)
            labels = window.clone()
            labels[:, : -(end - before)] = -100
            if (labels[:, 1:] != -100).any():  # else the loss is the mean of nothing
                loss = float(model(window, labels=labels).loss)
                found.append((loss, end - before, int((labels[:, 1:] != -100).sum())))
            before = end
            if end == ids.size(1):
                break
    return found


MEANS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "yarn": lambda loss, advance, labels: loss.mean(),
    "pose": lambda loss, advance, labels: (loss * advance).sum() / advance.sum(),
    "hf": lambda loss, advance, labels: (loss * labels).sum() / labels.sum(),
}


@pytest.mark.parametrize("bos", [False, True], ids=["no BOS", "BOS"])
@pytest.mark.parametrize("truncate", [False, True], ids=["sliding", "truncated"])
@pytest.mark.parametrize("name", MEANS)
def test_equals_the_evaluator_s_loop(
    name: str, truncate: bool, bos: bool, llama: LlamaForCausalLM, llama_folder: Path
) -> None:
    plan = EvaluatorPlan.build(
        DOCUMENTS, (16, 32), stride=5, name=name, truncate=truncate, start_ids=(BOS,) if bos else ()
    )
    calls: list[tuple[int, int]] = []
    scorer = HuggingFaceScorer(llama_folder, device="cpu")
    result = run_evaluator(
        scorer, plan, batch_tokens=70, progress=lambda what, done, total: calls.append((done, total))
    )
    with torch.no_grad():
        for length in (16, 32):
            windows = torch.tensor(loop(llama, length, 5, truncate, bos), dtype=torch.float64)
            expected = MEANS[name](*windows.unbind(dim=1)).exp()
            assert result.by_length[length] == pytest.approx(float(expected), rel=1e-5)
    assert calls[-1] == (plan.num_tokens, plan.num_tokens)
    assert len(calls) == 1 + plan.num_batches(70)
    assert result.protocol["name"] == name and name in result.protocol["summary"]


def test_what_cannot_be_is_refused() -> None:
    settings = {"stride": 5, "name": "hf", "truncate": False, "start_ids": ()}
    with pytest.raises(DataError, match="documents"):
        EvaluatorPlan.build([[1]], (16,), **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lengths"):
        EvaluatorPlan.build(DOCUMENTS, (1,), **settings)  # type: ignore[arg-type]
    for stride, fix in ((0, "give e.g. 256"), (17, "lower the stride to 16, or")):
        with pytest.raises(ConfigError, match=rf"^stride: .*{fix}"):
            EvaluatorPlan.build(DOCUMENTS, (16,), **{**settings, "stride": stride})  # type: ignore[arg-type]
    EvaluatorPlan.build(DOCUMENTS, (16,), **{**settings, "stride": 99, "truncate": True})  # type: ignore[arg-type]
