"""Whether a folder could be written, asked without writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.bounded.places import exists, why_unwritable


def test_folders_that_can_be_made_leave_no_trace(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a" / "b", tmp_path / ("x" * 255)):
        assert why_unwritable(folder) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file", "is a file"),
        ("file/x", "is a file"),
        ("x" * 256, "255 bytes"),
        ("é" * 130, "255 bytes"),
        ("\0", "char"),
    ],
)
def test_others_have_a_reason(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    assert words in str(why_unwritable(tmp_path / name))


def test_file_systems_without_files_are_known() -> None:
    for folder in ("/proc", "/proc/x/y", "/sys/a"):
        assert "takes no files" in str(why_unwritable(Path(folder)))


def test_links_to_nothing_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "link to nothing" in str(why_unwritable(tmp_path / "link"))


def test_names_that_cannot_be_do_not_exist(tmp_path: Path) -> None:
    assert exists(tmp_path)
    for name in ("x" * 300, "\0", "gone"):
        assert not exists(tmp_path / name)
