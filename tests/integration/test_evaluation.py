"""Evaluation over several ranks against one rank of transformers: same scores, same report."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.data.heldout import read_documents
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.evaluation.evaluate import evaluate as measure
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.lm_eval_scores import LmEvalResult
from nemo_pi.evaluation.passkey_result import PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults, read_results
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from tests.integration.launch import EVALUATE, ROOT, call, launch
from tests.integration.scores import ask_lm_eval, generate, lm_eval, prompts, requests, score, windows
from tests.integration.world import World
from tests.unit.evaluation.lm_eval_tasks import write_tasks

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {"dp": 2},
    "tp2": {"tp": 2},
    "pp2": {"pp": 2},
    "pp2-vpp2-tied": {"pp": 2, "vpp": 2},
    "cp2": {"cp": 2},
    "tp2-pp2-tied": {"tp": 2, "pp": 2},
    "tp2-sp-cp2": {"tp": 2, "sequence_parallel": True, "cp": 2},
    "dp2-cp2": {"dp": 2, "cp": 2},
}


def ranks_of(layout: dict[str, Any]) -> int:
    """Ranks that a layout takes."""
    return int(layout.get("tp", 1) * layout.get("pp", 1) * layout.get("cp", 1) * layout.get("dp", 1))


@pytest.fixture(scope="session")
def inputs(world: World) -> dict[str, tuple[Tensor, ...]]:
    """Windows for each start model; every second label is transformers' greedy choice."""
    made = {}
    for name in ("tied", "untied"):
        tokens, labels, positions = windows()
        model = HuggingFaceScorer(world.models[name], device="cpu").model
        with torch.no_grad():
            mask = torch.ones_like(tokens)
            greedy = model(tokens, attention_mask=mask, position_ids=positions).logits.argmax(-1)
        labels[:, ::2] = greedy[:, ::2]
        made[name] = (tokens, labels, positions)
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_as_one_rank_does(layout: str, world: World, inputs: dict[str, tuple[Tensor, ...]]) -> None:
    model = "tied" if layout.endswith("tied") else "untied"
    expected = HuggingFaceScorer(world.models[model], device="cpu").score(*inputs[model])
    ranks = ranks_of(LAYOUTS[layout])
    folder = world.folder / f"scores-{layout}"
    arguments = (world.models[model], LAYOUTS[layout], inputs[model], folder)
    call(score, *arguments, folder=folder, ranks=ranks).check()
    for rank in range(ranks):
        logprob, greedy = torch.load(folder / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(logprob, expected.logprob_BS, rtol=1e-5, atol=2e-5)
        assert torch.equal(greedy, expected.is_greedy_BS)
    assert 0.4 < expected.is_greedy_BS.float().mean() < 0.6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_generates_as_one_rank_does(layout: str, world: World) -> None:
    """Prompts of different lengths over replicas, stages and context; greedy and drawn."""
    model = world.models["tied" if layout.endswith("tied") else "untied"]
    scorer = HuggingFaceScorer(model, device="cpu")
    expected = [scorer.generate(prompts(), request) for request in requests()]
    ranks = ranks_of(LAYOUTS[layout])
    folder = world.folder / f"texts-{layout}"
    call(generate, model, LAYOUTS[layout], folder, folder=folder, ranks=ranks).check()
    for rank in range(ranks):
        texts = json.loads((folder / f"{rank}.json").read_text())
        assert texts == [[list(text.token_ids) for text in group] for group in expected]
    greedy, drawn = expected
    assert greedy != drawn


@pytest.mark.parametrize("layout", ["dp2", "tp2", "pp2"])
def test_asks_lm_eval_s_questions_as_one_rank_does(layout: str, world: World) -> None:
    """Pairs, whole texts and answers; every rank is told the scores, and the tokens that it counted."""
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install -e '.[dev]'")
    model = world.models["untied"]
    tasks = write_tasks(world.folder / f"tasks-{layout}", questions=4)
    expected, done, total = ask_lm_eval(HuggingFaceScorer(model, device="cpu"), model, tasks)
    folder = world.folder / f"lm-eval-{layout}"
    call(lm_eval, model, LAYOUTS[layout], tasks, folder, folder=folder, ranks=2).check()
    for rank in range(2):
        found, *tokens = json.loads((folder / f"{rank}.json").read_text())
        assert tokens == [done, total] == [total, total]
        # Perplexities are powers of sums of some fifty nats, whose rounding they multiply.
        assert LmEvalResult.from_json(found).scalars() == pytest.approx(expected.scalars(), rel=1e-3)
    assert expected.metrics["ours_next"]["logprob_stderr,none"]


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two held-out texts of more than 1,024 tokens."""
    path = tmp_path_factory.mktemp("heldout") / "heldout.jsonl"
    with lzma.open(ROOT / "demo" / "text" / "valid.jsonl.xz", "rt") as lines, path.open("w") as out:
        for line in list(lines)[:2]:
            out.write(json.dumps({"text": json.loads(line)["text"][:5000]}) + "\n")
    return path


REPORT = "--max-tokens 1100 --stride 128 --passkey-trials 1 --passkey-lengths 2"


def evaluate(
    model: Path, documents: Path, folder: Path, *more: str, window: int = 128, ranks: int = 1
) -> ModelResults:
    """The row that examples/evaluate.py reports for a window and its double."""
    windows = ["--original-window", str(window), "--target-window", str(2 * window)]
    arguments = [str(model), "--documents", str(documents), *windows, *REPORT.split(), *more]
    finished = launch(
        [*arguments, "--results", str(folder / "results")], folder=folder, ranks=ranks, script=EVALUATE
    )
    finished.check()
    assert finished.out.count("Results:") == 1, "one rank reports"
    return read_results(folder / "results" / "results.json")[0]


def parts(row: ModelResults) -> tuple[PerplexityResult, PasskeyResult]:
    """Its two results."""
    perplexity, passkey = row.tasks["perplexity"], row.tasks["passkey"]
    assert isinstance(perplexity, PerplexityResult) and isinstance(passkey, PasskeyResult)
    return perplexity, passkey


def assert_same_row(row: ModelResults, expected: ModelResults) -> None:
    """Perplexities to rounding, pass keys exactly."""
    (perplexity, passkey), (expected_perplexity, expected_passkey) = parts(row), parts(expected)
    assert perplexity.by_length == pytest.approx(expected_perplexity.by_length, rel=1e-5)
    assert (perplexity.protocol, passkey) == (expected_perplexity.protocol, expected_passkey)


def test_replicas_report_what_transformers_does(documents: Path, tmp_path: Path) -> None:
    """The bundled model, which retrieves pass keys in its window of 512 tokens and not beyond."""
    bundled = ROOT / "demo" / "model"
    expected = evaluate(bundled, documents, tmp_path / "one", window=512)
    inside, beyond = map(sum, parts(expected)[1].grid.successes)
    assert inside > beyond
    assert_same_row(evaluate(bundled, documents, tmp_path / "two", window=512, ranks=2), expected)


def test_a_split_checkpoint_reports_what_transformers_does(
    world: World, documents: Path, tmp_path: Path
) -> None:
    """A trained run's distributed checkpoint on two ranks against its exported folder on one."""
    run = world.reference()
    checkpoint = run.logs / "checkpoints" / f"step_{run.checkpoints[-1]:08d}"
    expected = evaluate(run.exported, documents, tmp_path / "one")
    flags = ("--tensor-model-parallel-size", "2")
    assert_same_row(evaluate(checkpoint, documents, tmp_path / "two", *flags, ranks=2), expected)


@pytest.mark.parametrize("layout", ["tensor", "pipeline", "context", ""])
def test_a_run_measures_itself_as_transformers_does_its_export(
    layout: str, world: World, documents: Path
) -> None:
    """On the two ranks that train; without a layout of their own they are replicas."""
    tasks = "{perplexity:{max_tokens:600,stride:64},passkey:{lengths:[200],trials:2,generate:true}}"
    overrides = [
        "model.evaluation.every=2",
        f"model.evaluation.documents={documents}",
        f"model.evaluation.tasks={tasks}",
        *([f"model.{layout}_{'' if layout == 'context' else 'model_'}parallel_size=2"] if layout else []),
    ]
    run = world.run(f"measuring-{layout or 'data'}", *overrides, ranks=2)
    run.finished.check()
    assert "step 2: Perplexity: " in run.finished.err + run.finished.out
    found = read_results(run.logs / "evaluation" / "results.json")
    assert [result.name for result in found] == ["step 2", "step 3"]
    tokenizer = build_tokenizer("huggingface", str(run.exported))
    context = TaskContext(tokenizer, read_documents(documents, tokenizer, 256), 64, 256)
    kinds = [
        Perplexity(max_tokens=600, stride=64),
        Passkey(lengths=(200,), trials=2, generate=True),
    ]
    assert_same_row(found[-1], measure(HuggingFaceScorer(run.exported, device="cpu"), kinds, context))


def test_what_transformers_cannot_do_is_refused(world: World, documents: Path, tmp_path: Path) -> None:
    arguments = [str(world.models["tied"]), "--documents", str(documents), "--backend", "transformers"]
    windows = ["--original-window", "64", "--target-window", "256"]
    finished = launch([*arguments, *windows], folder=tmp_path / "run", ranks=2, script=EVALUATE)
    assert finished.statuses == (2, 2)
    assert "ConfigError: --backend: required megatron" in finished.err
