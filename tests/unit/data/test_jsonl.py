"""Finding and reading JSONL files."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from nemo_pi.data import jsonl
from nemo_pi.data.jsonl import find_files, read_lines
from nemo_pi.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.jsonl").write_bytes(b"1\n\n  \n2")
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf3\r\n")
    (tmp_path / "notes.txt").write_bytes(b"no\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.jsonl.gz").write_bytes(gzip.compress(b"4\n5\n"))
    (tmp_path / "deep" / "d.jsonl.xz").write_bytes(lzma.compress(b"6\n"))
    return tmp_path


def test_files_of_a_folder_in_order(folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path in find_files(folder)]
    assert names == ["a.json", "b.jsonl", "deep/c.jsonl.gz", "deep/d.jsonl.xz"]


def test_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    names = [f"{i * 37 % 64:02d}.jsonl" for i in range(64)]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in find_files(tmp_path)] == sorted(names)
    assert [path.name for path in find_files(f"{tmp_path}/*")] == sorted(names)


def test_file_and_glob(folder: Path) -> None:
    assert find_files(folder / "notes.txt") == [folder / "notes.txt"]
    assert find_files(f"{folder}/*.json*") == [folder / "a.json", folder / "b.jsonl"]
    assert len(find_files(f"{folder}/**/*.jsonl*")) == 3


def test_lines_are_numbered_and_blank_ones_left_out(folder: Path) -> None:
    lines = [(Path(line.path).name, line.number, line.raw) for line in read_lines(find_files(folder))]
    assert lines == [
        ("a.json", 1, b"3\r\n"),
        ("b.jsonl", 1, b"1\n"),
        ("b.jsonl", 4, b"2"),
        ("c.jsonl.gz", 1, b"4\n"),
        ("c.jsonl.gz", 2, b"5\n"),
        ("d.jsonl.xz", 1, b"6\n"),
    ]


@pytest.mark.parametrize("source", ["nothing", "empty", "*.jsonl"])
def test_no_input_is_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"--input.*no such file") as caught:
        find_files(tmp_path / source)
    assert caught.value.given.startswith(str(tmp_path / source)[:200])


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_damaged_compression_is_named(tmp_path: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    path = tmp_path / f"a.jsonl{suffix}"
    raw = pack(b"\n".join(b"%d" % (i * i) for i in range(9000)))
    for damaged in (raw[: len(raw) // 2], b"not compressed", raw[:400] + b"\0" * 50 + raw[450:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"a\.jsonl{suffix}, after line \d+"):
            list(read_lines([path]))


@pytest.mark.parametrize(("length", "refused"), [(10, False), (11, True), (25, True)])
def test_a_line_is_as_long_as_it_may_be(
    length: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MOST_LINE_BYTES", 10)
    path = tmp_path / "text.jsonl"
    path.write_bytes(b"first\n" + b"x" * (length - 1) + b"\n")
    if refused:
        with pytest.raises(DataError, match="line 2"):
            list(read_lines([path]))
    else:
        assert [len(line.raw) for line in read_lines([path])] == [6, length]
