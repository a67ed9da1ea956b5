"""One folder, whole or not at all: the lock, the checks, the way out after a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.checkpoint.lock import lock_beside
from nemo_pi.checkpoint.lock_file import holder_of
from nemo_pi.checkpoint.whole import written_whole
from nemo_pi.errors import CheckpointError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_name_appears_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "step_1"
    with written_whole(folder, "save") as partial:
        assert partial.is_dir() and not folder.exists()
        assert holder_of(lock_beside(folder)) is not None, "nobody else may write it meanwhile"
        (partial / "weights").write_text("x")
    assert names(tmp_path) == ["step_1"] and names(folder) == ["weights"]


def test_checks_run_before_anything_is_made(tmp_path: Path) -> None:
    def refuse() -> None:
        assert holder_of(lock_beside(tmp_path / "step_1")) is not None, "what is looked at stays as it is"
        assert not any(name.endswith(".partial") for name in names(tmp_path))
        raise CheckpointError("field", required="more", given="less", fix="give more")

    with (
        pytest.raises(CheckpointError, match="give more"),
        written_whole(tmp_path / "step_1", "save", check=refuse),
    ):
        pytest.fail("the block runs only once the checks have passed")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("no luck"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_leaves_what_was_there_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "step_1"
    folder.mkdir()
    (folder / "weights").write_text("old")
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError
    with (
        pytest.raises(expected) as caught,
        written_whole(folder, "export", fix="try on a quiet day") as partial,
    ):
        (partial / "weights").write_text("new")
        raise error
    if expected is CheckpointError:
        assert "a complete export" in str(caught.value) and "try on a quiet day" in str(caught.value)
    assert names(tmp_path) == ["step_1"] and (folder / "weights").read_text() == "old"


def test_what_came_under_the_name_meanwhile_is_kept_aside_if_asked(tmp_path: Path) -> None:
    folder = tmp_path / "step_1"
    with written_whole(folder, "save", keep_aside=lambda found: (found / "mine").exists()):
        folder.mkdir()
        (folder / "mine").write_text("x")
    assert names(tmp_path) == ["step_1", "step_1.aside-1"]
    assert names(tmp_path / "step_1.aside-1") == ["mine"]
    with written_whole(folder, "save", keep_aside=lambda found: (found / "mine").exists()) as partial:
        (partial / "weights").write_text("x")
    assert names(folder) == ["weights"], "what need not be kept is replaced"
