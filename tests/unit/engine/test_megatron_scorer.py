"""The Megatron scorer on one rank against transformers on the same folder (more ranks: tests/integration)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.engine.megatron_scorer import MegatronScorer
from nemo_pi.engine.opening import open_engine
from nemo_pi.engine.state import save_engine
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.sampling import Sampling
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.model.build import BuildOptions
from nemo_pi.parallel.layout import ParallelLayout
from tests.unit.engine.loops import engine_of, random_batch
from tests.unit.model.models import SHAPE, WINDOW, causal_logits, transformers_model

pytestmark = pytest.mark.usefixtures("one_rank")

ROWS, LENGTH = 3, 3 * WINDOW // 2
YARN: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": WINDOW,
    },
    "max_position_embeddings": 4 * WINDOW,
}


def batch(model: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels of which every second is the greedy choice, and positions with a gap."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, SHAPE.vocab_size, (ROWS, LENGTH), generator=generator)
    positions = torch.arange(LENGTH).expand(ROWS, LENGTH) + 9 * (torch.arange(LENGTH) > LENGTH // 3)
    with torch.no_grad():
        labels = causal_logits(model, tokens, positions).argmax(-1)
    labels[:, ::2] = torch.randint(0, SHAPE.vocab_size, labels[:, ::2].shape, generator=generator)
    return tokens, labels, positions


def megatron(folder: Path, **options: Any) -> MegatronScorer:
    engine = open_engine(read_summary(folder), ParallelLayout(), BuildOptions(**options))
    return MegatronScorer(engine, folder.name, chunk_tokens=7)


SMOLLM = {"family": "smollm3", "no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 9}
GEMMA = {
    "family": "gemma3_text",
    "sliding_window": 9,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 16,
}
MINISTRAL = {
    "family": "ministral3",
    "rope_parameters": {**YARN["rope_parameters"], "llama_4_scaling_beta": 0.5},
    "max_position_embeddings": 4 * WINDOW,
}


@pytest.mark.parametrize(
    "settings",
    [{}, YARN, {"tie_word_embeddings": True}, SMOLLM, MINISTRAL, GEMMA],
    ids=["plain", "yarn", "tied embeddings", "layers that are not rotated", "growing queries", "two bases"],
)
def test_scores_equal_those_of_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    model = transformers_model(**settings)
    model.save_pretrained(tmp_path / "model")
    inputs = batch(model)
    expected = HuggingFaceScorer(tmp_path / "model", device="cpu").score(*inputs)
    scorer = megatron(tmp_path / "model")
    scores = scorer.score(*inputs)
    assert isinstance(scorer, Scorer) and scorer.name == "model"
    assert scores.logprob_BS.dtype == torch.float32 and scores.is_greedy_BS.dtype == torch.bool
    torch.testing.assert_close(scores.logprob_BS, expected.logprob_BS, rtol=1e-5, atol=3e-5)
    assert torch.equal(scores.is_greedy_BS, expected.is_greedy_BS)
    assert 0.4 < expected.is_greedy_BS.float().mean() < 0.7


def test_a_distributed_checkpoint_scores_as_the_engine_that_saved_it(tmp_path: Path) -> None:
    transformers_model().save_pretrained(tmp_path / "start")
    engine = engine_of(tmp_path / "start")
    engine.set_lr(1e-2)
    engine.forward_backward(random_batch())
    engine.step()
    meta = {
        "shape": SHAPE.to_dict(),
        "extension": engine.settings.extension.to_dict(),
        "global_step": 1,
        "consumed_samples": 4,
    }
    save_engine(engine, tmp_path / "saved", meta)
    inputs = batch(transformers_model())
    before = megatron(tmp_path / "start").score(*inputs).logprob_BS
    expected = MegatronScorer(engine, "trained", chunk_tokens=7).score(*inputs)
    scores = megatron(tmp_path / "saved").score(*inputs)
    assert torch.equal(scores.logprob_BS, expected.logprob_BS)
    assert not torch.allclose(scores.logprob_BS, before, atol=1e-2)


def test_bf16_weights_are_scored_from_fp32_logits(tmp_path: Path) -> None:
    model = transformers_model()
    model.save_pretrained(tmp_path / "model")
    inputs = batch(model)
    expected = HuggingFaceScorer(tmp_path / "model", device="cpu", dtype=torch.bfloat16).score(*inputs)
    scores = megatron(tmp_path / "model", params_dtype=torch.bfloat16).score(*inputs)
    assert (scores.logprob_BS - expected.logprob_BS).abs().mean() < 0.05


@pytest.mark.parametrize("wrong", [-100, SHAPE.vocab_size])
def test_ids_outside_the_vocabulary_are_refused(wrong: int, tmp_path: Path) -> None:
    model = transformers_model()
    model.save_pretrained(tmp_path / "model")
    tokens, labels, positions = batch(model)
    scorer = megatron(tmp_path / "model")
    labels[1, 3] = wrong
    with pytest.raises(DataError, match="labels"):
        scorer.score(tokens, labels, positions)
    with pytest.raises(DataError, match="tokens"):
        scorer.score(labels, tokens, positions)


def test_chunks_hold_at_least_one_token() -> None:
    with pytest.raises(ConfigError, match="chunk_tokens"):
        MegatronScorer(engine_of(train=False), "model", chunk_tokens=0)


DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}}


@pytest.mark.parametrize("settings", [{}, YARN, DYNAMIC], ids=["plain", "yarn", "dynamic"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, top_k=20, seed=4)], ids=str)
def test_generates_what_transformers_does(
    settings: dict[str, Any], sampling: Sampling, tmp_path: Path
) -> None:
    """Prompts of several lengths, across the window; the same seeds draw the same on both."""
    transformers_model(**settings).save_pretrained(tmp_path / "model")
    generator = torch.Generator().manual_seed(6)
    prompts = [torch.randint(SHAPE.vocab_size, (n,), generator=generator).tolist() for n in (50, 58, 50, 70)]
    request = GenerationRequest(12, sampling)
    expected = HuggingFaceScorer(tmp_path / "model", device="cpu").generate(prompts, request)
    scorer = megatron(tmp_path / "model")
    assert scorer.generate(prompts, request) == expected


def test_prompts_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    transformers_model().save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="prompts"):
        megatron(tmp_path / "model").generate([[SHAPE.vocab_size]], GenerationRequest(1))
