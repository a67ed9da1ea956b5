"""Bytes of files: no more than a bound, and from nothing that never ends.

A file can claim any size, in its own words (a length before the bytes) or to the file system (a sparse file
takes no room on a disk), and a path can name a pipe or a device.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from nemo_pi.units import size_of


def read_bytes(path: Path, most: int) -> bytes:
    """The whole of a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or no regular file (a pipe, a device).
    """
    with open_regular(path) as stream:
        # One more than allowed is asked for: a file can grow between a look at its size and the reading.
        data = stream.read(min(os.fstat(stream.fileno()).st_size, most) + 1)
    if len(data) > most:
        raise ValueError(f"more than {size_of(most)}")
    return data


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; a pipe would block for ever, and a device may never end.

    Raises:
        OSError: it cannot be opened.
        ValueError: no regular file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("a folder" if path.is_dir() else "a pipe or a device")
    return path.open("rb")


class BoundedReader:
    """A binary file of which no single read gets more than `most` bytes, and a longer one is refused.

    Readers of pickles, tar and zip files ask for as many bytes as a field says, and Python sets memory aside
    for them before it looks whether there are so many.

    Args:
        stream: the file.
        most: bytes of one read; None reads anything.
        place: (first byte, number of bytes) of the part that is to look like a whole file; None: the whole.
    """

    def __init__(self, stream: BinaryIO, most: int | None, place: tuple[int, int] | None = None) -> None:
        self.stream, self.most = stream, most
        self.start, self.length = (0, stream.seek(0, os.SEEK_END)) if place is None else place
        stream.seek(self.start)

    def read(self, size: int | None = -1) -> bytes:
        """As the file's."""
        left = max(0, self.length - self.tell())
        wanted = left if size is None or size < 0 else size
        if self.most is not None and wanted > self.most:
            raise ValueError(f"a field of {wanted:,} bytes")
        return self.stream.read(min(wanted, left))

    def readline(self, size: int = -1) -> bytes:
        """As the file's."""
        left = max(0, self.length - self.tell())
        most = left if self.most is None else min(left, self.most + 1)
        line = self.stream.readline(most if size < 0 else min(size, most))
        if self.most is not None and len(line) > self.most:
            raise ValueError(f"a line of more than {self.most:,} bytes")
        return line

    def readinto(self, buffer: memoryview | bytearray) -> int:
        """As the file's."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As the file's."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.length}[whence]
        if origin + offset < 0:
            raise OSError("a place before the beginning")
        return self.stream.seek(self.start + origin + offset) - self.start

    def tell(self) -> int:
        """As the file's."""
        return self.stream.tell() - self.start

    def seekable(self) -> bool:
        """True: only files of a disk are read here."""
        return True

    def readable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """As the file's."""
        self.stream.close()
