"""Writing folders whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nemo_pi.checkpoint.files import (
    STALE_AFTER_SECONDS,
    clean_leftovers,
    finish_folder,
    partial_folder,
    read_json,
    real_folder,
    remove_folder,
    start_folder,
    write_json,
)
from nemo_pi.errors import CheckpointError


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_folder_appears_when_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "a"
    partial = start_folder(folder)
    (partial / "file").write_text("new")
    assert partial == partial_folder(folder)
    assert not folder.exists()
    finish_folder(folder)
    assert (folder / "file").read_text() == "new"
    assert names(folder.parent) == ["a"]


def test_starting_again_forgets_the_interrupted_attempt(tmp_path: Path) -> None:
    (start_folder(tmp_path / "a") / "half").write_text("x")
    assert list(start_folder(tmp_path / "a").iterdir()) == []


def test_the_former_folder_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("old")
    (start_folder(tmp_path / "a") / "file").write_text("new")
    real = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        finish_folder(tmp_path / "a")
    monkeypatch.undo()
    assert not (tmp_path / "a").exists()
    clean_leftovers(tmp_path)
    assert (tmp_path / "a" / "file").read_text() == "old"
    finish_folder(tmp_path / "a")
    assert (tmp_path / "a" / "file").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_a_removal_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    (tmp_path / ".a.deleting").mkdir()
    clean_leftovers(tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_text("x")
    remove_folder(tmp_path / "b")
    assert names(tmp_path) == []


def test_other_hidden_folders_stay(tmp_path: Path) -> None:
    for name in (".git", ".partial_notes", "a.partial"):
        (tmp_path / name).mkdir()
    clean_leftovers(tmp_path)
    assert names(tmp_path) == [".git", ".partial_notes", "a.partial"]


@pytest.mark.parametrize("newest", ["folder", "first", "last", "deep", None])
def test_a_save_in_progress_counts_by_its_newest_file(newest: str | None, tmp_path: Path) -> None:
    """A writer on another machine cannot be asked: whatever it has touched last says that it is at work."""
    partial = tmp_path / ".step.partial"  # of an older version, or another machine: no token
    files = {"folder": partial, "first": partial / "a", "last": partial / "z", "deep": partial / "d" / "file"}
    (partial / "d").mkdir(parents=True)
    for name in ("first", "last", "deep"):
        files[name].write_text("x")
    old, now = time.time() - 2 * STALE_AFTER_SECONDS, time.time()
    for path in (*files.values(), partial / "d"):
        os.utime(path, (old, old))
    if newest is not None:
        os.utime(files[newest], (now, now))
    clean_leftovers(tmp_path)
    assert partial.exists() == (newest is not None)


def test_how_old_a_leftover_is(tmp_path: Path) -> None:
    for name, age in (("young", STALE_AFTER_SECONDS - 60), ("old", STALE_AFTER_SECONDS + 60)):
        partial = tmp_path / f".{name}.partial"
        partial.mkdir()
        os.utime(partial, (time.time() - age, time.time() - age))
    clean_leftovers(tmp_path)
    assert names(tmp_path) == [".young.partial"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert real_folder(tmp_path / "link") == (tmp_path / "real").resolve()
    assert real_folder(tmp_path / "new") == tmp_path / "new"


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")
    assert read_json(tmp_path / "a.json") == {"ü": [1, None]}
    for content in ("", "[1]", "{", '{"a": ' + "9" * 5000 + "}", "[" * 100_000):
        (tmp_path / "b.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"b\.json"):
            read_json(tmp_path / "b.json")
