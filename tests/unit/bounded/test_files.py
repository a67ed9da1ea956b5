"""Bytes of files within bounds."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from nemo_pi.bounded.files import BoundedReader, open_regular, read_bytes


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abcd")
    assert read_bytes(path, 4) == read_bytes(path, 100) == b"abcd"
    with pytest.raises(ValueError, match="more than"):
        read_bytes(path, 3)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match=r"pipe|folder"):
            open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")


def test_a_reader_reads_as_a_file_does() -> None:
    data = bytes(range(200)) + b"\nline\n"
    for place in (None, (0, len(data)), (10, 100)):
        part = data if place is None else data[place[0] : sum(place)]
        ours, plain = BoundedReader(io.BytesIO(data), 1000, place), io.BytesIO(part)
        for offset, whence, size in (
            (0, 0, 7),
            (3, 1, 5),
            (-9, 2, 4),
            (-2, 2, 50),
            (50, 0, -1),
            (60, 0, None),
        ):
            assert ours.seek(offset, whence) == plain.seek(offset, whence)
            assert ours.read(size) == plain.read(size)
            assert ours.tell() == plain.tell()
        ours.seek(0)
        plain.seek(0)
        assert ours.readline() == plain.readline()
        buffer, other = bytearray(9), bytearray(9)
        ours.seek(0)
        plain.seek(0)
        assert ours.readinto(buffer) == plain.readinto(other) and buffer == other


def test_a_long_read_is_refused_before_it_is_made() -> None:
    reader = BoundedReader(io.BytesIO(b"a" * 50), 8)
    for read in (lambda: reader.read(9), lambda: reader.read(), lambda: reader.readline()):
        reader.seek(0)
        with pytest.raises(ValueError, match=r"field|line"):
            read()
    with pytest.raises(OSError):
        reader.seek(-60, os.SEEK_END)
    reader.most = None
    reader.seek(0)
    assert len(reader.read()) == 50
