"""Headers of GGUF files: sound ones pass; lengths that a file cannot hold are refused without a loop."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from nemo_pi.checkpoint.hf.gguf_header import check_gguf


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def listed(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + items


ARCHITECTURE = entry(b"general.architecture", 8, text(b"llama"))
TOKENS = entry(b"tokenizer.ggml.tokens", 9, listed(8, 3, text(b"a") + text(b"") + text(b"cc")))
SCORES = entry(b"tokenizer.ggml.scores", 9, listed(6, 2, struct.pack("<2f", 1, 2)))


def header(*entries: bytes, tensors: int = 4, count: int | None = None) -> bytes:
    number = len(entries) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, number) + b"".join(entries) + bytes(500)


def blocks(number: int) -> bytes:
    return entry(b"llama.block_count", 4, struct.pack("<I", number))


def test_a_sound_header_passes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(header(ARCHITECTURE, TOKENS, blocks(2), SCORES))
    check_gguf(tmp_path / "a")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGML" + bytes(100),
        header(tensors=2**40),
        header(count=2**40),
        header(count=9)[:40],
        header(blocks(10**7)),
        header(entry(b"a", 8, struct.pack("<Q", 2**60))),
        header(entry(b"a", 9, listed(0, 2**60, b""))),
        header(entry(b"a", 9, listed(8, 2**31, b""))),
        header(entry(b"a", 9, listed(9, 1, listed(0, 1, b"x")))),
        header(entry(b"a", 99, b"")),
    ],
)
def test_others_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError):
        check_gguf(tmp_path / "a")


def test_no_more_is_read_than_a_header_takes(tmp_path: Path) -> None:
    """A name of 80 MB, which takes no room on a disk: the file could hold it, no header does."""
    name = 80_000_000
    with (tmp_path / "a").open("wb") as stream:
        stream.write(b"GGUF" + struct.pack("<IQQQ", 3, 4, 1, name))
        stream.truncate(name + 1000)
    with pytest.raises(ValueError, match="longer than any model's"):
        check_gguf(tmp_path / "a")
