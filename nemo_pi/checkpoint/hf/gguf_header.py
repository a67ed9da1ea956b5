"""The header of a GGUF file, looked at before its readers do: they loop over whatever lengths it claims.

Little endian: "GGUF", uint32 version, uint64 number of tensors, uint64 number of entries; each entry a name,
a type and a value; each tensor a name, its sides, a type and a place. Names and texts follow their length,
lists their type and length. (llama.cpp, docs/gguf.md.)
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from nemo_pi.bounded.files import open_regular

_MOST_BYTES = 1 << 26
"""Of the entries: a vocabulary's texts, scores and merges come to some ten megabytes."""
_MOST_ITEMS = 4_000_000
"""Of all lists together."""
_LEAST_TENSOR = 24
"""Bytes that name and place a tensor, at the least."""
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9
_BLOCKS = ".block_count"


def check_gguf(path: Path) -> None:
    """Refuses a header of more entries, list items or layers than the file can hold.

    Raises:
        OSError, ValueError: with what is too much, or where the header ends early.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        header = _Header(stream.read(min(size, _MOST_BYTES)))
    if header.take(4) != b"GGUF":
        raise ValueError("not GGUF")
    header.number(4)
    tensors, entries = header.number(8), header.number(8)
    if tensors * _LEAST_TENSOR > size or entries > _MOST_ITEMS:
        raise ValueError(f"{tensors:,} tensors and {entries:,} entries in {size:,} bytes")
    for _ in range(entries):
        name = header.text()
        kind = header.number(4)
        start = header.place
        header.skip(kind)
        if name.endswith(_BLOCKS.encode()) and kind in _SIZES:
            blocks = int.from_bytes(header.data[start : header.place], "little")
            if blocks > tensors:
                raise ValueError(f"{blocks:,} layers of {tensors:,} tensors")


class _Header:
    """Bytes that are taken one field after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.items = data, 0, 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self.place += count
        if self.place > len(self.data):
            raise ValueError("a header that ends early, or is longer than any model's")
        return self.data[self.place - count : self.place]

    def number(self, width: int) -> int:
        """The next unsigned number."""
        return int.from_bytes(self.take(width), "little")

    def text(self) -> bytes:
        """The next name or text."""
        return self.take(self.number(8))

    def skip(self, kind: int) -> None:
        """Passes over a value of a type."""
        if kind in _SIZES:
            self.take(_SIZES[kind])
        elif kind == _TEXT:
            self.text()
        elif kind == _LIST:
            inner, count = self.number(4), self.number(8)
            self.items += count
            if self.items > _MOST_ITEMS:
                raise ValueError(f"lists of more than {_MOST_ITEMS:,} items")
            if inner in _SIZES:
                self.take(count * _SIZES[inner])
            elif inner == _TEXT:
                self._skip_texts(count)
            else:
                raise ValueError("lists of lists")
        else:
            raise ValueError(f"a value of the unknown type {kind}")

    def _skip_texts(self, count: int) -> None:
        """A vocabulary: half a million texts, and so without a call for each."""
        read, place, end = struct.Struct("<Q").unpack_from, self.place, len(self.data)
        for _ in range(count):
            if place + 8 > end:
                break
            place += 8 + read(self.data, place)[0]
        self.place = place
        self.take(0)
