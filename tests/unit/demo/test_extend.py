"""The demo's runs follow from one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.extend import BASE_MODEL, overrides, trained_folder
from demo.methods import COMPARED, POSITION_INTERPOLATION, SAMPLERS, Method
from demo.prepare import Prepared

METHODS = (POSITION_INTERPOLATION, *COMPARED, *SAMPLERS)
FOLDER = Path("results")
DATA = Prepared(Path("train"), Path("valid"), Path("passkey"), Path("heldout"), {})


def value(chosen: list[str], key: str) -> str:
    """What the last override of a key says."""
    return [item.partition("=")[2] for item in chosen if item.partition("=")[0] == key][-1]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
@pytest.mark.parametrize("steps", [40, 101, 200])
def test_stages_share_the_steps(method: Method, steps: int) -> None:
    counts = method.steps_of_stages(steps)
    assert sum(counts) == steps and min(counts) > 0
    assert sum(stage.share for stage in method.stages) == 1


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_each_stage_starts_where_the_one_before_ended(method: Method) -> None:
    runs = [overrides(method, number, DATA, FOLDER, 10) for number in range(len(method.stages))]
    starts = [value(run, "restore_from_path") for run in runs]
    ends = [value(run, "model.export.hf_path") for run in runs]
    assert starts == [str(BASE_MODEL), *ends[:-1]] and ends[-1] == str(trained_folder(method, FOLDER))
    names = [value(run, "name") for run in runs]
    assert len(set(names)) == len(names) and names[-1] == method.key


def test_no_two_methods_share_a_folder() -> None:
    names = [value(overrides(m, n, DATA, FOLDER, 10), "name") for m in METHODS for n in range(len(m.stages))]
    assert len(set(names)) == len(names)


def test_stages_that_read_other_data_read_it_elsewhere() -> None:
    stages = {stage for method in METHODS for stage in method.stages}
    kinds = {(stage.window, stage.mostly_short_keys) for stage in stages}
    assert len({stage.data_name for stage in stages}) == len(kinds)
