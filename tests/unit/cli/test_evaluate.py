"""What examples/evaluate.py refuses at once and what it keeps; tests/integration run the whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from nemo_pi.cli.evaluate import measure, run
from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_plan import (
    plan_model,
)
from nemo_pi.errors import CheckpointError, ConfigError, DataError
from nemo_pi.evaluation.evaluate import PlannedTask
from nemo_pi.evaluation.passkey_result import PasskeyResult
from nemo_pi.evaluation.results import read_results
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.short import Short
from tests.unit.interruptions import interrupted_at

ROOT = Path(__file__).resolve().parents[3]
BUNDLED = ROOT / "demo" / "model"


def test_all_is_planned_and_its_cost_said_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done stops in a moment; nothing is written."""
    words = [str(BUNDLED), "target_window=1024", "tasks=[passkey]", "tasks.passkey.lengths=[1024,60]"]
    with pytest.raises(DataError, match=r"^tasks\.passkey\.lengths: .*given 60"):
        run(arguments=[*words, f"results={tmp_path / 'r'}"])
    with pytest.raises(DataError, match=r"^documents: required at least one document"):
        run(arguments=[str(BUNDLED), f"results={tmp_path / 'r'}"])
    with pytest.raises(ConfigError, match=r"^tasks\.passkey\.lengths: .*target window, 512; given 2048"):
        run(arguments=[str(BUNDLED), "tasks=[passkey]", "tasks.passkey.lengths=[2048]"])
    with pytest.raises(ConfigError, match=r"^pipeline_model_parallel_size: .*--nproc-per-node 2"):
        run(arguments=[str(BUNDLED), "tasks=[passkey]", "pipeline_model_parallel_size=2"])
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"^results: .* is a file"):
        run(arguments=[str(BUNDLED), f"results={tmp_path / 'file' / 'r'}"])
    assert not (tmp_path / "r").exists() and "computed by" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the bundled tokenizer, and one whose tokenizer has a token less."""
    folder = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        vocab_size=2048, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    for name in ("one", "other"):
        LlamaForCausalLM(config).save_pretrained(folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(BUNDLED / file, folder / name)
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:1000]
    (folder / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    text = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 30
    (folder / "text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    return folder


def words_of(tiny: Path, results: Path, *more: str) -> list[str]:
    windows = ["original_window=32", "target_window=64", f"documents={tiny / 'text.jsonl'}"]
    return [*more, *windows, f"results={results}"]


def test_ctrl_c_reports_what_is_measured_by_then(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two tasks of the second model; and before anything is measured."""
    monkeypatch.setattr(Short, "run", interrupted_at(2, Short.run))
    words = ["tasks=[short,perplexity]", "tasks.short.stride=16", "tasks.perplexity.stride=16"]
    assert run(arguments=words_of(tiny, tmp_path / "r", str(tiny / "one"), str(tiny / "one"), *words)) == 130
    out, err = capsys.readouterr()
    assert "Report: " in out and "holds what was measured by then" in err
    (kept,) = read_results(tmp_path / "r" / "results.json")
    assert list(kept.tasks) == ["short", "perplexity"] and (tmp_path / "r" / "report.html").is_file()
    monkeypatch.setattr(Short, "run", interrupted_at(1, Short.run))
    assert run(arguments=words_of(tiny, tmp_path / "n", str(tiny / "one"), *words)) == 130
    assert "Stopped." in capsys.readouterr().err and not list((tmp_path / "n").iterdir())


def test_a_later_model_that_cannot_be_loaded_costs_no_report(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny / "one", broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    words = ["tasks=[short]", "tasks.short.stride=16"]
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        run(arguments=words_of(tiny, tmp_path / "r", str(tiny / "one"), str(broken), *words))
    assert (tmp_path / "r" / "report.html").is_file()


def test_perplexities_of_other_tokens_are_not_compared(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(tiny / "one"), str(tiny / "other")]
    words = ["tasks=[short]", "tasks.short.stride=16", "tasks.short.max_tokens=32"]
    with pytest.raises(
        ConfigError, match=r"^gate\.short_perplexity: .*given other cut them otherwise than one"
    ):
        run(arguments=words_of(tiny, tmp_path / "r", *models, *words, "gate.short_perplexity=1.02"))
    assert run(arguments=words_of(tiny, tmp_path / "r", *models, *words)) == 0
    out, err = capsys.readouterr()
    assert "other: other tokens than one's: perplexities do not compare" in err
    line = next(line for line in out.splitlines() if line.startswith("other"))
    assert line.split()[-1] == "–", "no ratio"


@pytest.mark.parametrize(("bound", "status"), [(1.0, 0), (0.99, 1)])
def test_a_gate_decides_the_status_that_the_command_ends_with(
    bound: float, status: int, tiny: Path, tmp_path: Path
) -> None:
    """A model beside itself, whose perplexity is exactly the first one's."""
    models = [str(tiny / "one"), str(tiny / "one")]
    words = ["tasks=[short]", "tasks.short.stride=16", f"gate.short_perplexity={bound}"]
    ended = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples/evaluate.py"),
            *words_of(tiny, tmp_path / "r", *models, *words),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert (tmp_path / "r" / "report.html").is_file(), "what was measured is reported in either case"
    said = "is 1, required at most 0.99 (short_perplexity)"
    assert (said in ended.stderr) == (status == 1), ended.stderr


def test_what_was_measured_before_an_interruption_is_kept(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    class Broken(Passkey):
        name = "broken"

        def run(self, *_: object) -> PasskeyResult:
            raise Interrupted

    config = EvaluateConfig(
        [str(BUNDLED)], results=str(tmp_path), tasks={"passkey": {"lengths": [256], "trials": 1}}
    )
    plan = plan_model("model", BUNDLED, config, (512, 512))
    broken = PlannedTask(Broken(), plan.planned[0].plan)
    with tqdm(disable=True) as bar, pytest.raises(Interrupted):
        measure(replace(plan, planned=[*plan.planned, broken]), [], config, bar)
    (kept,) = read_results(tmp_path / "results.json")
    assert list(kept.tasks) == ["passkey"]
