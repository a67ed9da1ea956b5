"""The demo's runs follow from one another."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from demo.extend import BASE_MODEL, ROOT, overrides, trained_folder
from demo.methods import COMPARED, POSITION_INTERPOLATION, SAMPLERS, TARGET, Method
from demo.prepare import Prepared
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.load import resolve_stages
from nemo_pi.config.overrides import as_hydra

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
def test_a_method_is_one_run_of_its_stages(method: Method) -> None:
    chosen = overrides(method, dict.fromkeys(method.stages, DATA), FOLDER, 200)
    assert value(chosen, "restore_from_path") == str(BASE_MODEL)
    assert value(chosen, "model.export.hf_path") == str(trained_folder(method, FOLDER))
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("extend_context", [as_hydra(word) for word in chosen])
    runs = resolve_stages(cfg, world_size=1, summary=read_summary(BASE_MODEL))
    assert [run.max_steps for run in runs] == method.steps_of_stages(200)
    for run, stage in zip(runs, method.stages, strict=True):
        assert (run.training_length, run.global_batch_size) == (stage.window, stage.rows)
        assert run.extension == runs[0].extension and run.extension.target_window == TARGET
        assert run.stage.reset_optimizer == (run.stage.number > 0) and run.stage.first_sample == 0
        assert (run.pose is not None) == any(key.startswith("pose") for key in stage.own_keys)


def test_no_two_methods_share_a_folder() -> None:
    names = [method.key for method in METHODS]
    assert len(set(names)) == len(names)


def test_stages_that_read_other_data_read_it_elsewhere() -> None:
    stages = {stage for method in METHODS for stage in method.stages}
    kinds = {(stage.window, stage.mostly_short_keys) for stage in stages}
    assert len({stage.data_name for stage in stages}) == len(kinds)
