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

from nemo_pi.bounded.places import exists
from nemo_pi.errors import DataError
from nemo_pi.units import size_of

SUFFIXES = tuple(f"{name}{packed}" for name in (".jsonl", ".json") for packed in ("", ".gz", ".xz"))
"""Files that are taken from a folder."""


MOST_LINE_BYTES = 1 << 26
"""Of one line: a document of some fifteen million tokens."""
MOST_BLANK_LINES = 1_000_000
"""In a row."""
_NOT_READ = (".bz2", ".zst", ".zip", ".7z", ".tar", ".tgz", ".parquet", ".arrow")


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
    if not exists(path) and len(str(path)) > 4000:
        raise _none(source)
    if exists(path) and path.is_file():
        return [path]
    if exists(path) and path.is_dir() and str(source):
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not found:
        raise _none(source)
    return found


def _none(source: str | Path) -> DataError:
    return DataError(
        "--input",
        required=f"a file, a folder with {', '.join(SUFFIXES)} files, or a glob",
        given=f"{str(source)[:200] or repr('')}, where no such file is",
        fix="check the path (quote a glob so that the shell leaves it alone)",
    )


def read_lines(paths: Sequence[Path]) -> Iterator[Line]:
    """Lines of the files one after another, blank ones left out.

    Raises:
        DataError: a compressed file that is damaged or ends early, with the last line that was read; a line
            or a stretch of nothing that is longer than any text.
    """
    for path in paths:
        number = 0
        try:
            with _open(path) as stream:
                blank = 0
                while raw := stream.readline(MOST_LINE_BYTES + 1):
                    number += 1
                    if len(raw) > MOST_LINE_BYTES:
                        raise _too_much(path, number, f"a line of at most {size_of(MOST_LINE_BYTES)}")
                    if number == 1:
                        # A byte order mark, which some editors write and JSON does not allow.
                        raw = raw.removeprefix(b"\xef\xbb\xbf")
                    if raw.strip():
                        blank = 0
                        yield Line(str(path), number, raw)
                    elif (blank := blank + 1) > MOST_BLANK_LINES:
                        raise _too_much(path, number, f"at most {MOST_BLANK_LINES:,} blank lines in a row")
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise DataError(
                f"{path}, after line {number}",
                required="a readable file",
                given=f"{type(error).__name__}: {error}",
                fix="copy or compress the file again",
            ) from error


def _too_much(path: Path, number: int, required: str) -> DataError:
    # A compressed file of half a megabyte can hold gigabytes of one letter.
    return DataError(f"{path}, line {number}", required=required, given="more", fix="split the document")


def _open(path: Path) -> IO[bytes]:
    if path.suffix in _NOT_READ:
        raise DataError(
            str(path),
            required="plain text, or text compressed by gzip (.gz) or xz (.xz)",
            given=path.suffix,
            fix="unpack it first, or compress it anew",
        )
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return cast(IO[bytes], lzma.open(path, "rb")) if path.suffix == ".xz" else open(path, "rb")
