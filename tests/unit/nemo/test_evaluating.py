"""A run that measures itself: the bundled model from 512 to 1,024 tokens on a few steps of random tokens."""

from __future__ import annotations

import json
import logging
import lzma
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_pi.checkpoint.retention import complete_checkpoints
from nemo_pi.cli.evaluate import open_scorer
from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_plan import choose_windows, plan_model
from nemo_pi.errors import ConfigError, DataError, NemoPiError
from nemo_pi.evaluation.evaluate import run_tasks
from nemo_pi.evaluation.random_numbers import random_numbers_kept
from nemo_pi.evaluation.results import ModelResults, read_results
from nemo_pi.nemo import evaluating
from nemo_pi.nemo.run import STOPPED, RunResult, run
from tests.unit.nemo.runs import configuration, write_tokens

pytestmark = pytest.mark.usefixtures("one_rank")

ROOT = Path(__file__).resolve().parents[3]
BUNDLED = ROOT / "demo" / "model"
TASKS: dict[str, Any] = {
    "perplexity": {"lengths": [64, 128], "stride": 64, "max_tokens": 1100},
    "passkey": {"lengths": [200], "trials": 2, "depths": [0.0], "generate": True},
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data to train on and a held-out text of more than 1,024 tokens."""
    folder = tmp_path_factory.mktemp("material")
    write_tokens(folder / "tokens", vocab_size=2048)
    with lzma.open(ROOT / "demo" / "text" / "valid.jsonl.xz", "rt") as lines:
        text = json.loads(next(lines))["text"][:5000]
    (folder / "heldout.jsonl").write_text(json.dumps({"text": text}))
    return folder


def cfg(material: Path, logs: Path, evaluation: dict[str, Any] | None, **changes: Any) -> DictConfig:
    """Four steps of 32 tokens whose positions skip, measured every other step."""
    section = {"every": 2, "documents": str(material / "heldout.jsonl"), "tasks": TASKS, **(evaluation or {})}
    return configuration(
        material,
        logs,
        **{
            "restore_from_path": str(BUNDLED),
            "model__max_position_embeddings": 1024,
            "model__data__pose": {},
            **({} if evaluation is None else {"model__evaluation": section}),
            **changes,
        },
    )


def trained(config: DictConfig) -> RunResult:
    result = run(config)
    assert result is not None
    return result


def results_of(logs: Path) -> list[ModelResults]:
    return read_results(logs / "evaluation" / "results.json")


def weights_of(result: RunResult) -> dict[str, bytes]:
    """Contents of the last checkpoint's files, the manifest and Megatron's own notes aside."""
    folder = complete_checkpoints(result.folders.checkpoints)[-1]
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.distcp"))}


@pytest.fixture(scope="module")
def measured(one_rank: None, material: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """An uninterrupted run with curves; each checkpoint is kept."""
    changes = {
        "exp_manager__create_tensorboard_logger": True,
        "exp_manager__checkpoint_callback_params__every_n_train_steps": 2,
    }
    return trained(cfg(material, tmp_path_factory.mktemp("measured"), {}, **changes))


def test_measuring_changes_no_bit_of_training(measured: RunResult, material: Path, tmp_path: Path) -> None:
    plain = trained(cfg(material, tmp_path, None))
    assert weights_of(plain) == weights_of(measured) and len(weights_of(plain)) > 0
    assert plain.metrics["reduced_train_loss"] == measured.metrics["reduced_train_loss"]


def test_each_measurement_equals_that_of_its_checkpoint(measured: RunResult, material: Path) -> None:
    found = results_of(measured.folders.logs)
    assert [result.name for result in found] == ["step 2", "step 4"]
    checkpoints = complete_checkpoints(measured.folders.checkpoints)
    assert len(checkpoints) == 2
    config = EvaluateConfig(
        [str(folder) for folder in checkpoints], str(material / "heldout.jsonl"), tasks=TASKS
    )
    for folder, result in zip(checkpoints, found, strict=True):
        plan = plan_model(result.name, folder, config, choose_windows(config))
        expected = run_tasks(open_scorer(plan, torch.float32), plan.planned, plan.context, name=result.name)
        assert expected.tasks["passkey"] == result.tasks["passkey"]
        perplexity, wanted = result.tasks["perplexity"].to_json(), expected.tasks["perplexity"].to_json()
        assert perplexity["by_length"] == pytest.approx(wanted["by_length"], rel=1e-6)
        assert perplexity["protocol"] == wanted["protocol"]
    assert found[0].tasks["perplexity"] != found[1].tasks["perplexity"], "training moves them"


def test_curves_stand_beside_the_training_s(measured: RunResult) -> None:
    events = EventAccumulator(str(measured.folders.logs)).Reload()
    for name in ("perplexity/by_length/128", "passkey/k_max", "passkey/rate/200"):
        assert [event.step for event in events.Scalars(f"evaluation/{name}")] == [2, 4]
    last = results_of(measured.folders.logs)[-1].tasks["perplexity"].to_json()["by_length"]["128"]
    assert events.Scalars("evaluation/perplexity/by_length/128")[-1].value == pytest.approx(last)


class StopAt(Callback):
    """Sends SIGTERM while a step is trained, or while it is measured."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step - 1:
            signal.raise_signal(signal.SIGTERM)


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """Names of the measurements that are made; one of them is told to stop at its first batch."""
    names: list[str] = []
    original = evaluating.run_tasks

    def run_tasks(scorer: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(scorer.name)
        if scorer.name == f"step {stop_at}":
            signal.raise_signal(signal.SIGTERM)
        return original(scorer, *args, **kwargs)

    monkeypatch.setattr(evaluating, "run_tasks", run_tasks)
    return names


@pytest.mark.parametrize("stopped", ["between two", "while it is measured", "while the last is"])
def test_a_resumed_run_measures_each_step_once(
    stopped: str, measured: RunResult, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cfg(material, tmp_path, {})
    if stopped == "between two":
        monkeypatch.setattr("nemo_pi.nemo.trainer.StepProgressBar", lambda log_every, title: StopAt(3))
        config.trainer.enable_progress_bar = True
        names = counted(monkeypatch)
        first = trained(config)
        assert (first.global_step, first.status, names) == (3, STOPPED, ["step 2"])
        config.trainer.enable_progress_bar = False
    else:
        step = 2 if stopped == "while it is measured" else 4
        names = counted(monkeypatch, stop_at=step)
        first = trained(config)
        assert first.global_step == step and names[-1] == f"step {step}"
        assert first.status == (STOPPED if step == 2 else 0)
        monkeypatch.undo()
        names.clear()
        names += [result.name for result in results_of(tmp_path)] if step == 4 else []
        again = counted(monkeypatch)
        second = trained(config)
        assert second.global_step == 4 and names + again == ["step 2", "step 4"]
        assert results_of(tmp_path) == results_of(measured.folders.logs)
        return
    second = trained(config)
    assert second.global_step == 4 and names == ["step 2", "step 4"]
    assert results_of(tmp_path) == results_of(measured.folders.logs)


def test_a_goal_that_is_reached_ends_the_run_as_finished(
    material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every model reaches a k_max of 0, and none an effective length by an answer that no text holds."""
    caplog.set_level(logging.INFO, "nemo_pi")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Who?", "answers": ["Qx7-zz9-Kj4"], "paragraphs": ["Nobody."]}')
    ruler = {"lengths": [512], "samples": 1, "subtasks": ["qa_1"], "questions": str(questions)}
    tasks = {"passkey": TASKS["passkey"], "ruler": ruler}
    evaluation = {"every": 1, "tasks": tasks, "stop_at": {"k_max": 0}}
    changes = {"model__export__hf_path": str(tmp_path / "exported")}
    result = trained(cfg(material, tmp_path / "logs", evaluation, **changes))
    assert (result.global_step, result.status, result.exported) == (1, 0, tmp_path / "exported")
    assert len(complete_checkpoints(result.folders.checkpoints)) == 1
    said = next(text for text in caplog.messages if "goal reached" in text)
    assert "step 1: goal reached (k_max of pass keys is" in said and "required at least 0 (k_max)" in said
    names = counted(monkeypatch)
    again = trained(cfg(material, tmp_path / "logs", evaluation, **changes))
    assert (again.global_step, again.status, names) == (1, 0, [])
    assert any("The goal was reached before" in text for text in caplog.messages)
    # A goal that is set higher is trained for.
    evaluation["stop_at"] = {"effective_length": 512}
    higher = trained(cfg(material, tmp_path / "logs", evaluation, **changes))
    assert (higher.global_step, names) == (4, ["step 2", "step 3", "step 4"])


def test_random_numbers_go_on_as_if_nothing_had_drawn_any() -> None:
    """As lm-eval does, which seeds all three."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    with random_numbers_kept():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_results_that_cannot_be_read_are_written_anew(material: Path, tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "results.json"
    path.parent.mkdir()
    path.write_text("{")
    result = trained(cfg(material, tmp_path, {"every": 9}, trainer__max_steps=1))
    assert result.global_step == 1 and [found.name for found in results_of(tmp_path)] == ["step 1"]


@pytest.mark.parametrize(
    ("evaluation", "kind", "words"),
    [
        ({"tasks": {"paskey": {}}}, ConfigError, r"tasks\.paskey: .*did you mean 'passkey'"),
        (
            {"tasks": {"passkey": {"trails": 2}}},
            ConfigError,
            r"tasks\.passkey\.trails: .*did you mean",
        ),
        (
            {"tasks": {"passkey": {"lengths": [9999]}}},
            ConfigError,
            r"tasks\.passkey\.lengths: .*max_pos",
        ),
        ({"documents": None}, DataError, r"documents: "),
        ({"documents": "none.jsonl"}, DataError, r"documents: "),
        ({"every": 0}, ConfigError, r"every: "),
        ({"stop_at": {"kmax": 1}}, ConfigError, r"stop_at\.kmax: .*did you mean 'k_max'"),
        ({"stop_at": {"k_max": "far"}}, ConfigError, r"stop_at\.k_max: required a number"),
        ({"stop_at": {"k_max": "far"}}, ConfigError, r".*To fix: model\.evaluation\.stop_at\.k_max=200$"),
        (
            {"stop_at": {"k_max": 300}},
            ConfigError,
            r"stop_at\.k_max: required at most 200, .*stop_at\.k_max=200",
        ),
        (
            {"stop_at": {"k_max": 300}},
            ConfigError,
            r".*add 300 to model\.evaluation\.tasks\.passkey\.lengths$",
        ),
        (
            {"tasks": ["ruler"], "stop_at": {"effective_length": 2048}},
            ConfigError,
            r"stop_at\.effective_length: required at most 1024, .*stop_at\.effective_length=1024$",
        ),
        ({"tasks": ["short"], "stop_at": {"short_perplexity": 1}}, ConfigError, r"stop_at\.short_perplexity"),
        ({"tasks": {}}, ConfigError, r"tasks: required at least one task, as"),
        ({"ever": 3}, ConfigError, r"ever: .*did you mean model\.evaluation\.every"),
    ],
    ids=str,
)
def test_mistakes_are_found_before_anything_is_written(
    evaluation: dict[str, Any], kind: type[NemoPiError], words: str, material: Path, tmp_path: Path
) -> None:
    for dry_run in (True, False):
        with pytest.raises(kind, match=rf"^model\.evaluation\.{words}"):
            run(cfg(material, tmp_path / "logs", evaluation, dry_run=dry_run))
    assert not (tmp_path / "logs").exists()


def test_the_plan_says_what_it_costs(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = {"every": 3, "stop_at": {"k_max": 200}}
    assert run(cfg(material, tmp_path, evaluation, dry_run=True)) is None
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "measured every 3 steps and at the end: 2 times in all" in lines
    assert "passkey 400 tokens read, up to 14 generated, 1 batch, each time" in lines
    assert "ends early where k_max 200 is reached" in lines
    assert any(line.startswith("in all") and "512 trained" in line for line in lines)
