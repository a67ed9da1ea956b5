"""Which stage a checkpoint belongs to, and what a run with other stages is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.checkpoint.manifest import FORMAT, FORMAT_VERSION, MANIFEST
from nemo_pi.config.resolved import Stage
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.nemo.stages import RECORD, ids_once, named_by_stage, record_of, recorded_stage, stage_of
from tests.unit.config.builders import run_of
from tests.unit.config.test_stages import staged

STAGES = staged([{"max_steps": 30}, {"max_steps": 50}, {"max_steps": 40, "optim.lr": 1e-4}])


def checkpoint(folder: Path, step: int, stage: Stage | None) -> Path:
    """A manifest alone, as a run of these stages writes it."""
    whole: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "shape": {},
        "extension": {},
        "files": {},
        "global_step": step,
        "consumed_samples": step,
        RECORD: {} if stage is None else record_of(stage),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(whole))
    return folder


@pytest.mark.parametrize(("step", "number"), [(10, 0), (30, 0), (31, 1), (80, 1), (120, 2)])
def test_a_checkpoint_says_its_stage(tmp_path: Path, step: int, number: int) -> None:
    folder = checkpoint(tmp_path, step, STAGES[number].stage)
    assert recorded_stage(folder) == stage_of(STAGES, folder) == number


def test_one_of_a_run_without_stages_is_of_the_first(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 10, None)
    assert stage_of(STAGES, folder) == stage_of([run_of()], folder) == 0
    assert record_of(run_of().stage) == {}


def test_stages_that_are_done_stay_as_they_were(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 60, STAGES[1].stage)
    for other, field, required in (
        ([{"max_steps": 31}, {"max_steps": 50}], "stages before stages[1]", "first step 30"),
        ([{"max_steps": 30, "global_batch_size": 2}, {"max_steps": 50}], "stages before", "first sample 30"),
        ([{"max_steps": 30}], "stages", "at least 2 stages"),
        (None, "stages", "at least 2 stages"),
        ([{"max_steps": 30}, {"max_steps": 29}, {"max_steps": 9}], "stages[1].max_steps", "at least 30"),
    ):
        runs = staged(other, {"optim": {"sched": {"warmup_steps": 0}}})
        with pytest.raises(ConfigError) as caught:
            stage_of(runs, folder)
        assert caught.value.field.startswith(field)
        assert required in caught.value.required
    longer = staged([{"max_steps": 30}, {"max_steps": 70}, {"max_steps": 40}, {"max_steps": 40}])
    assert stage_of(longer, folder) == 1


def test_an_error_names_the_stage_unless_all_are_alike() -> None:
    def raised(field: str) -> DataError:
        with pytest.raises(DataError) as caught, named_by_stage(STAGES, STAGES[2]):
            raise DataError(field, required="x", given="y", fix=f"{field}=1")
        return caught.value

    assert raised("model.optim.lr").field == "stages[2].optim.lr"
    assert raised("model.optim.lr").fix == "stages.2.optim.lr=1"
    assert raised("model.data.data_prefix").field == "model.data.data_prefix"


def test_token_ids_are_read_once_for_each_set_of_files() -> None:
    other = {"data.data_prefix": ["/data/other"]}
    stages = [{"max_steps": 30, "data.check_token_ids": False}, {"max_steps": 30}, {"max_steps": 30, **other}]
    runs = staged([*stages, {"max_steps": 30}])
    assert [run.data.check_token_ids for run in ids_once(runs)] == [False, True, True, False]
