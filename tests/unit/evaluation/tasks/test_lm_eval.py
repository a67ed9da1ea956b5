"""lm-eval's tasks on our scorer give what its own Hugging Face backend gives on the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import BackendUnavailableError, ConfigError, DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import Measured, TaskContext
from nemo_pi.evaluation.tasks.lm_eval import LmEval, LmEvalResult
from tests.unit.evaluation.lm_eval_tasks import MORE, ROOT, write_tasks

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install -e '.[dev]'")
BUNDLED = ROOT / "demo" / "model"
WINDOW = 200  # longer texts are cut or rolled
BEGIN = "<|endoftext|>"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data sets leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks; every other passage begins as a text that is written out in full."""
    return write_tasks(tmp_path_factory.mktemp("tasks"), begin=BEGIN)


def beginning(folder: Path) -> Path:
    """The bundled model, its tokenizer putting a token before every text as Llama's does."""
    shutil.copytree(BUNDLED, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces: list[dict[str, Any]] = [
        {"SpecialToken": {"id": BEGIN, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [0], "tokens": [BEGIN]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": BEGIN}))
    return folder


def context_of(model: Path, window: int = WINDOW) -> TaskContext:
    tokenizer = build_tokenizer("huggingface", str(model))
    return TaskContext(tokenizer, [], 128, window, bool(tokenizer.start_ids), batch_tokens=500)


def measure(model: Path, folder: Path, *names: str) -> LmEvalResult:
    task = LmEval(tasks=names, include_path=str(folder))
    return task.run(HuggingFaceScorer(model, device="cpu"), task.plan(context_of(model)), lambda *_: None)


@pytest.mark.parametrize("begins", [False, True])
def test_equals_the_hugging_face_backend(
    begins: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = beginning(tmp_path / "model") if begins else BUNDLED
    assert context_of(model).add_bos == begins
    result = measure(model, folder, *MORE)
    theirs = simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", dtype="float32", max_length=WINDOW, batch_size=1),
        tasks=list(MORE),
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=1000,
        log_samples=False,
    )["results"]
    for name in MORE:
        wanted = {key: value for key, value in theirs[name].items() if "," in key and value != "N/A"}
        found = {key: value for key, value in result.metrics[name].items() if value is not None}
        assert wanted and found == pytest.approx(wanted, rel=1e-4), name
    table = LmEval.table([Measured("bundled", 128, WINDOW, result), Measured("none", 128, WINDOW, None)])
    assert "ours_rolling word_perplexity" in table.header and set(table.lines[1][1:]) == {"–"}
    assert not any("sample_len" in name or "stderr" in name for name in table.header)
    assert result.protocol["summary"].startswith("tasks ours_"), "a report puts the title before it"
    assert LmEvalResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_real_run_says_whether_scores_are_kept(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(BUNDLED, broken)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BUNDLED)).save_pretrained(broken)
    first, second = (measure(model, folder, "ours_next") for model in (BUNDLED, broken))
    for metric in ("logprob_stderr,none", "perplexity_stderr,none"):
        assert first.metrics["ours_next"][metric]
    assert first.higher_is_better["ours_next"] == {"perplexity": False, "acc": True}
    models = [Measured(name, 128, WINDOW, own) for name, own in (("a", first), ("b", first), ("c", second))]
    (verdict,) = LmEval.verdicts(models)
    assert [finding and finding.answer for finding in verdict.findings] == ["reference", "yes", "no"]


def test_costs_what_it_said_and_can_be_ended_between_batches(folder: Path) -> None:
    task, calls = LmEval(tasks=tuple(MORE), include_path=str(folder), limit=3), []
    before = torch.get_rng_state()
    plan, scorer = task.plan(context_of(BUNDLED)), HuggingFaceScorer(BUNDLED, device="cpu")
    assert plan.cost.tokens_generated == 3 * 12 and plan.cost.tokens_read > 3 * 4 * 100
    task.run(scorer, plan, lambda _, done, total: calls.append((done, total)))
    assert calls[0][0] == 0 and calls[-1] == (plan.cost.tokens, plan.cost.tokens)
    assert len(calls) == 1 + plan.cost.batches
    assert torch.equal(before, torch.get_rng_state()), "lm-eval seeds everything"

    def stop(_: str, done: int, __: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task.run(scorer, plan, stop)


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(BUNDLED, 256)
    with pytest.raises(ConfigError, match=r"^tasks: required names .*; given no_such_task"):
        LmEval(tasks=("no_such_task",)).plan(context)
    with pytest.raises(DataError, match="include_path"):
        LmEval(tasks=("lambada",), include_path=str(folder / "none")).plan(context)
    for wrong in ({}, {"tasks": ("a",), "limit": 0}, {"tasks": ("a",), "num_fewshot": -1}):
        with pytest.raises(ConfigError):
            LmEval(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_fewshot: required ≥ 0, or null"):
        LmEval(tasks=("a",), num_fewshot=-1)
    assert LmEval(tasks=("a",), num_fewshot=0)
    own = write_tasks(tmp_path)
    (own / "data.jsonl").unlink()
    with pytest.raises(DataError, match=r"^tasks: .*at hand.*tasks\.lm_eval=false"):
        LmEval(tasks=("ours_choice",), include_path=str(own)).plan(context)
    task = folder / "ours_generate.yaml"
    long = task.read_text(encoding="utf-8").replace("toks: 12", "toks: 256").replace("ours", "long")
    (tmp_path / "long.yaml").write_text(long, encoding="utf-8")
    with pytest.raises(ConfigError, match="target_window: required more than the 256 tokens"):
        LmEval(tasks=("long_generate",), include_path=str(own)).plan(context)
    monkeypatch.setattr("nemo_pi.evaluation.tasks.lm_eval.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="pip install 'lm-eval"):
        LmEval(tasks=("lambada",)).plan(context)
