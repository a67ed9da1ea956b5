"""Which checkpoint is the latest, and which may go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nemo_pi.checkpoint.manifest import build_manifest, file_entries
from nemo_pi.checkpoint.retention import complete_checkpoints, latest_checkpoint, remove_checkpoints


def make(root: Path, name: str, step: int) -> Path:
    """A folder that looks like a complete checkpoint."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "weights").write_text(name)
    meta = {"shape": {}, "extension": {}, "global_step": step, "consumed_samples": step * 8}
    manifest = build_manifest(meta, file_entries(folder, ["weights"]))
    (folder / "nemo_pi.json").write_text(json.dumps(manifest))
    return folder


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@contextmanager
def comes_and_goes(folder: Path) -> Iterator[None]:
    """Another process keeps removing and saving it: here by its name."""
    ended, away = threading.Event(), folder.with_name("." + folder.name)

    def run() -> None:
        while not ended.is_set():
            folder.rename(away)
            away.rename(folder)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_latest_is_the_highest_step_not_the_last_name(tmp_path: Path) -> None:
    make(tmp_path, "step_9", 9)
    make(tmp_path, "step_10", 10)
    make(tmp_path, "a_name_of_my_own", 5)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_10"
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["a_name_of_my_own", "step_9", "step_10"]


def test_none_yet(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["no manifest", "truncated", "missing file", "broken manifest"])
def test_incomplete_ones_are_passed_over(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "step_1", 1)
    broken = make(tmp_path, "step_2", 2)
    if damage == "no manifest":
        (broken / "nemo_pi.json").unlink()
    elif damage == "truncated":
        (broken / "weights").write_text("s")
    elif damage == "missing file":
        (broken / "weights").unlink()
    else:
        (broken / "nemo_pi.json").write_text("{")
    assert latest_checkpoint(tmp_path) == tmp_path / "step_1"
    if damage != "no manifest":
        assert "step_2" in caplog.text, "a user must learn why an older one is taken"
    remove_checkpoints(complete_checkpoints(tmp_path)[:-1])
    assert names(tmp_path) == ["step_1", "step_2"], "neither the only whole one nor the damaged one goes"


def test_pruning_keeps_the_newest_and_everything_foreign(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        make(tmp_path, f"step_{step}", step)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    make(tmp_path, ".step_4.partial", 4)
    remove_checkpoints(complete_checkpoints(tmp_path)[:-2])
    assert names(tmp_path) == [".step_4.partial", "logs", "notes.txt", "step_10", "step_3"]
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step_3", "step_10"]


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", "step_1", 1)
    root = tmp_path / "root"
    make(root, "step_2", 2)
    (root / "step_1").symlink_to(elsewhere)
    remove_checkpoints(complete_checkpoints(root)[:-1])
    assert names(root) == ["step_2"]
    assert (elsewhere / "weights").exists()


def test_an_overwrite_that_was_cut_short_loses_nothing(tmp_path: Path) -> None:
    """Killed between its two renames: the former checkpoint waits under a hidden name."""
    make(tmp_path, ".step_5.replaced", 5)
    make(tmp_path, "step_3", 3)
    assert latest_checkpoint(tmp_path) == tmp_path / ".step_5.replaced"
    make(tmp_path, "step_5", 5)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_5"


def test_one_that_is_removed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "step_1", 1)
    with comes_and_goes(make(tmp_path, "step_2", 2)):
        seen = {tuple(path.name for path in complete_checkpoints(tmp_path)) for _ in range(4000)}
    assert seen <= {("step_1",), ("step_1", "step_2")}
