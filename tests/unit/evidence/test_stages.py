"""Stages: what is done stays done, and an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence.stages import LONGEST_MINUTES, Stage, describe, keep_settings, run_stages
from nemo_pi.errors import ConfigError


def stage(folder: Path, name: str, log: list[str], *, fails: bool = False, writes: bool = True) -> Stage:
    """One that writes down that it ran."""

    def run() -> None:
        log.append(name)
        if fails:
            raise KeyboardInterrupt
        if writes:
            (folder / name).touch()

    return Stage(name, 90, folder / name, run)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    log: list[str] = []
    first, second = stage(tmp_path, "first", log), stage(tmp_path, "second", log)
    with pytest.raises(KeyboardInterrupt):
        run_stages([first, stage(tmp_path, "second", log, fails=True)], lambda _: None)
    assert log == ["first", "second"] and first.done and not second.done
    run_stages([first, second], lambda _: None)
    assert log == ["first", "second", "second"] and second.done


def test_a_stage_without_its_files_is_no_success(tmp_path: Path) -> None:
    log: list[str] = []
    broken, later = stage(tmp_path, "broken", log, writes=False), stage(tmp_path, "later", log)
    with pytest.raises(RuntimeError, match="broken ended without"):
        run_stages([broken, later], lambda _: None)
    assert log == ["broken"]


def test_the_plan_counts_what_is_left_and_comes_first(tmp_path: Path) -> None:
    log: list[str] = []
    stages = [stage(tmp_path, name, log) for name in ("one", "two", "three")]
    (tmp_path / "one").touch()
    said: list[str] = []
    run_stages(stages, lambda text: said.append(text) if not log else None)
    assert "one    done" in said[0] and "two    1.5 min" in said[0] and said[0].endswith("to do  3.0 min")
    assert "to do  0.0 min" in describe(stages)


def test_a_plan_that_has_been_said_is_not_said_again(tmp_path: Path) -> None:
    said: list[str] = []
    run_stages([stage(tmp_path, "one", [])], said.append, announced=True)
    assert said and not any("Stages:" in text for text in said)


def test_the_plan_marks_stages_that_are_long_in_one_piece(tmp_path: Path) -> None:
    limit = 60 * LONGEST_MINUTES
    seconds = {"short": limit, "long": limit + 1, "made": limit + 1}
    (tmp_path / "made").touch()
    stages = [Stage(name, value, tmp_path / name, lambda: None) for name, value in seconds.items()]
    lines = describe(stages).splitlines()[1:]
    assert [f"more than {LONGEST_MINUTES} min" in line for line in lines] == [False, True, False, False]


def test_a_folder_holds_stages_of_one_size(tmp_path: Path) -> None:
    keep_settings(tmp_path / "new", {"steps": 80, "lengths": (1, 2)})
    keep_settings(tmp_path / "new", {"steps": 80, "lengths": (1, 2)})
    with pytest.raises(ConfigError, match="steps 200") as caught:
        keep_settings(tmp_path / "new", {"steps": 200, "lengths": (1, 2)})
    assert "begun with steps 80" in str(caught.value) and "lengths" not in str(caught.value)
