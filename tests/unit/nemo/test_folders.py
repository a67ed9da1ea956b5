"""Where a run writes, from exp_manager's keys."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.nemo.folders import RunFolders, run_folders
from tests.unit.config.builders import run_of


def folders_of(**exp_manager: Any) -> RunFolders:
    return run_folders(run_of(name="mine", exp_manager=exp_manager))


@pytest.mark.parametrize(
    ("keys", "logs"),
    [
        ({"explicit_log_dir": "/logs"}, "/logs"),
        ({"exp_dir": "/exp", "use_datetime_version": False}, "/exp/mine"),
        ({"exp_dir": "/exp", "name": "other", "use_datetime_version": False}, "/exp/other"),
        ({"exp_dir": "/exp", "version": "v3"}, "/exp/mine/v3"),
        ({"exp_dir": "/exp", "resume_if_exists": True}, "/exp/mine"),
        ({"use_datetime_version": False}, "nemo_experiments/mine"),
        ({"exp_dir": "~/exp", "use_datetime_version": False}, str(Path("~/exp/mine").expanduser())),
    ],
    ids=str,
)
def test_logs_lie_where_nemo_would_put_them(keys: dict[str, Any], logs: str) -> None:
    folders = folders_of(**keys)
    assert folders.logs == Path(logs)
    assert folders.checkpoints == Path(logs) / "checkpoints"
    assert folders.resume is bool(keys.get("resume_if_exists", False))


def test_runs_that_do_not_resume_get_a_dated_folder() -> None:
    before = datetime.now().replace(microsecond=0)
    logs = folders_of(exp_dir="/exp").logs
    assert logs.parent == Path("/exp/mine")
    assert before <= datetime.strptime(logs.name, "%Y-%m-%d_%H-%M-%S") <= datetime.now()


def test_checkpoints_may_lie_elsewhere() -> None:
    folders = folders_of(explicit_log_dir="/logs", checkpoint_callback_params={"dirpath": "/scratch/ck"})
    assert (folders.logs, folders.checkpoints) == (Path("/logs"), Path("/scratch/ck"))


@pytest.mark.parametrize(
    ("params", "save_every", "keep"),
    [
        ({}, 0, 3),
        ({"every_n_train_steps": 50, "save_top_k": 1}, 50, 1),
        ({"save_top_k": -1}, 0, 0),
        ({"save_top_k": None}, 0, 3),
        ({"save_top_k": 0}, 0, 1),  # NeMo keeps the last one whatever k is
        ({"every_n_train_steps": None}, 0, 3),
    ],
    ids=str,
)
def test_how_often_and_how_many(params: dict[str, Any], save_every: int, keep: int) -> None:
    folders = folders_of(checkpoint_callback_params=params)
    assert (folders.save_every, folders.keep) == (save_every, keep)


def test_without_the_callback_only_the_end_is_saved() -> None:
    folders = folders_of(
        create_checkpoint_callback=False, checkpoint_callback_params={"every_n_train_steps": 5}
    )
    assert folders.save_every == 0


def test_exp_manager_gets_the_folder_and_no_say_over_checkpoints() -> None:
    given = {
        "exp_dir": "/exp",
        "name": "mine",
        "use_datetime_version": False,
        "resume_if_exists": True,
        "create_tensorboard_logger": True,
        "checkpoint_callback_params": {"save_top_k": 1},
    }
    before = dict(given)
    settings = folders_of(**given).exp_manager_settings(given)
    assert settings["explicit_log_dir"] == "/exp/mine"
    assert settings["create_tensorboard_logger"] is True
    assert settings["create_checkpoint_callback"] is settings["resume_if_exists"] is False
    assert not {"exp_dir", "name", "use_datetime_version", "checkpoint_callback_params"} & settings.keys()
    assert given == before
