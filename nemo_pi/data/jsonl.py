"""Lines of JSONL files: finding the files, reading them (also .gz and .xz), numbering the lines."""

from __future__ import annotations

import glob
import gzip
import lzma
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from nemo_pi.errors import DataError

SUFFIXES = tuple(f"{name}{packed}" for name in (".jsonl", ".json") for packed in ("", ".gz", ".xz"))
"""Files that are taken from a folder."""


@dataclass(frozen=True)
class Line:
    """One line that is not blank."""

    path: str
    """The file."""
    number: int
    """Line number, from 1."""
    raw: bytes
    """Its bytes, line end included."""


def find_files(source: str | Path) -> list[Path]:
    """The files that `source` names: itself, a folder's `SUFFIXES` files (sorted), or a glob's (sorted).

    Raises:
        DataError: when that is no file at all.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not found:
        raise DataError(
            "--input",
            required=f"a file, a folder with {', '.join(SUFFIXES)} files, or a glob",
            given=f"{source}, where no such file is",
            fix="check the path (quote a glob so that the shell leaves it alone)",
        )
    return found


def read_lines(paths: Sequence[Path]) -> Iterator[Line]:
    """Lines of the files one after another, blank ones left out.

    Raises:
        DataError: a compressed file that is damaged or ends early, with the last line that was read.
    """
    for path in paths:
        number = 0
        try:
            with _open(path) as stream:
                for number, raw in enumerate(stream, start=1):
                    if number == 1:
                        # A byte order mark, which some editors write and JSON does not allow.
                        raw = raw.removeprefix(b"\xef\xbb\xbf")
                    if raw.strip():
                        yield Line(str(path), number, raw)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise DataError(
                f"{path}, after line {number}",
                required="a readable file",
                given=f"{type(error).__name__}: {error}",
                fix="copy or compress the file again",
            ) from error


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return cast(IO[bytes], lzma.open(path, "rb")) if path.suffix == ".xz" else open(path, "rb")
