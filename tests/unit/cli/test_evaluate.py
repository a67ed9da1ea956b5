"""What examples/evaluate.py refuses at once and what it keeps; tests/integration run the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tqdm import tqdm

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

BUNDLED = Path(__file__).resolve().parents[3] / "demo" / "model"


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
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"^results: .* is a file"):
        run(arguments=[str(BUNDLED), f"results={tmp_path / 'file' / 'r'}"])
    assert not (tmp_path / "r").exists() and "computed by" not in capsys.readouterr().err


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
