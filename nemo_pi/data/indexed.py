"""Megatron ``.bin``/``.idx`` files, checked whole before anything reads them.

megatron-core opens a truncated ``.bin`` without complaint and fails in the middle of an epoch, and a
token id outside the vocabulary is silently masked under tensor parallelism. Both are refused here.

Layout of ``.idx`` (little endian): 9 bytes magic, uint64 version 1, uint8 dtype code, uint64 number of
sequences n, uint64 number of document marks d, int32[n] lengths in tokens, int64[n] byte offsets in the
``.bin``, int64[d] document marks (sequence numbers, from 0 up to n), and for multimodal data int8[n].
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nemo_pi.bounded.places import exists
from nemo_pi.errors import DataError

if TYPE_CHECKING:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

MAGIC = b"MMIDIDX\x00\x00"
DTYPES: dict[int, type[np.integer]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
}
"""Integer dtype codes of the format; codes 6 and 7 are floats and hold no tokens."""

_HEADER = struct.Struct("<9sQBQQ")
_MOST_EMPTY = 1 << 20
"""Sequences without a token, and documents without a sequence, beyond as many as there are others."""
_AT_ONCE = 1 << 20
"""Entries of an index that are looked at together, so that memory does not grow with it."""
_REBUILD = "write the pair again with examples/preprocess_data.py, or copy both files again"


@dataclass(frozen=True)
class IndexHeader:
    """The first 34 bytes of an ``.idx`` file."""

    dtype: type[np.integer]
    """Element type of the ``.bin``."""
    num_sequences: int
    """Number of sequences (a document is one or more of them)."""
    num_marks: int
    """Number of document marks: one more than the number of documents."""

    @property
    def num_bytes(self) -> int:
        """Size in bytes that the whole ``.idx`` must have (without modes)."""
        return _HEADER.size + 12 * self.num_sequences + 8 * self.num_marks


@dataclass(frozen=True)
class CorpusIndex:
    """What an ``.idx`` says of its documents, under the names of megatron-core's dataset.

    Enough to lay out samples and to refuse a corpus, without Megatron; no token can be read from it.
    """

    path_prefix: str
    """Path without extension."""
    sequence_lengths: NDArray[np.int32]
    """Tokens of each sequence."""
    document_indices: NDArray[np.int64]
    """Document marks: the first sequence of each document, and the number of sequences."""


def scored_prefix(prefix: str | Path) -> str:
    """Where the pair lies that says of each token of `prefix` whether it is learned (1) or only read (0)."""
    return f"{prefix}.scored"


def has_scored(prefix: str | Path) -> bool:
    """Whether a corpus of conversations says which of its tokens are learned."""
    return Path(f"{scored_prefix(prefix)}.idx").expanduser().is_file()


def read_header(idx_path: Path) -> IndexHeader:
    """Read and check magic, version and dtype code of an ``.idx`` file.

    Raises:
        DataError: a file that is not a version 1 index of integer tokens.
    """
    with open(idx_path, "rb") as stream:
        raw = stream.read(_HEADER.size)
    if len(raw) < _HEADER.size or raw[:9] != MAGIC:
        raise _refuse(idx_path, f"the magic bytes {MAGIC!r}", repr(raw[:9]))
    _, version, code, num_sequences, num_marks = _HEADER.unpack(raw)
    if version != 1:
        raise _refuse(idx_path, "index version 1", version)
    if code not in DTYPES:
        raise _refuse(idx_path, f"an integer dtype code of {sorted(DTYPES)}", code)
    return IndexHeader(DTYPES[code], num_sequences, num_marks)


def num_tokens(prefix: str | Path) -> int:
    """Tokens of a pair of files, by the size of its ``.bin`` and the header of its ``.idx`` alone.

    Raises:
        DataError: a missing or foreign file.
    """
    idx_path, bin_path = _paths(prefix)
    return bin_path.stat().st_size // np.dtype(read_header(idx_path).dtype).itemsize


def write_index(idx_path: Path, dtype: type[np.integer], lengths: Sequence[int]) -> None:
    """Write the ``.idx`` of documents of one sequence each, as megatron-core's builder does.

    Args:
        idx_path: file to write.
        dtype: element type of the ``.bin``.
        lengths: tokens of each document, in the order of the ``.bin``.
    """
    codes = {kind: code for code, kind in DTYPES.items()}
    sizes = np.asarray(lengths, dtype=np.int32)
    ends = np.cumsum(sizes, dtype=np.int64) * np.dtype(dtype).itemsize
    with open(idx_path, "wb") as stream:
        stream.write(_HEADER.pack(MAGIC, 1, codes[dtype], sizes.size, sizes.size + 1))
        stream.write(sizes.tobytes())
        # Where each document begins: the end of the one before it.
        stream.write(np.concatenate((np.zeros(1, np.int64), ends))[:-1].tobytes())
        stream.write(np.arange(sizes.size + 1, dtype=np.int64).tobytes())


def validate_pair(prefix: str | Path) -> IndexHeader:
    """Check that ``prefix.idx`` and ``prefix.bin`` are whole and agree with each other.

    Raises:
        DataError: a missing, truncated, foreign, empty or mismatched file.
    """
    idx_path, bin_path = _paths(prefix)
    header = read_header(idx_path)
    size = idx_path.stat().st_size
    # Multimodal indices end with one more byte per sequence; we read text from them all the same.
    if size not in (header.num_bytes, header.num_bytes + header.num_sequences):
        raise _refuse(idx_path, f"{header.num_bytes} bytes as its header says", f"{size} bytes")
    _check_arrays(idx_path, bin_path, header)
    return header


def open_indexed(prefix: str | Path, vocab_size: int | None = None) -> IndexedDataset:
    """Open ``prefix.bin``/``prefix.idx`` as megatron-core's memory-mapped dataset, after `validate_pair`.

    What it returns are views of the map, which the dataset closes when it goes: keep the dataset as long as
    its arrays are used (reading one later ends the process), or copy them.

    Args:
        prefix: path without extension.
        vocab_size: where given, every token id is read once and must lie in [0, vocab_size).

    Raises:
        DataError: see `validate_pair` and `check_token_ids`.
    """
    _validate(prefix, vocab_size)
    # Imported here: preprocessing writes and checks such files without Megatron, which imports slowly.
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    return IndexedDataset(str(Path(prefix).expanduser()), multimodal=False, mmap=True)


def read_index(prefix: str | Path, vocab_size: int | None = None) -> CorpusIndex:
    """The index of a pair, after the checks of `open_indexed`; what it returns are copies.

    Args:
        prefix: path without extension.
        vocab_size: as for `open_indexed`.

    Raises:
        DataError: see `validate_pair` and `check_token_ids`.
    """
    header = _validate(prefix, vocab_size)
    lengths, _, marks = _arrays(_paths(prefix)[0], header)
    return CorpusIndex(str(Path(prefix).expanduser()), lengths.copy(), marks.copy())


def _validate(prefix: str | Path, vocab_size: int | None) -> IndexHeader:
    header = validate_pair(prefix)
    if vocab_size is not None:
        check_token_ids(prefix, vocab_size)
    return header


def check_token_ids(prefix: str | Path, vocab_size: int, chunk_tokens: int = 1 << 24) -> None:
    """Read the whole ``.bin`` once, in chunks, and refuse ids outside [0, vocab_size).

    Costs one sequential read (skipped where the element type cannot hold such an id).

    Raises:
        DataError: with the first offending id and its token offset in the file.
    """
    idx_path, bin_path = _paths(prefix)
    dtype = read_header(idx_path).dtype
    info = np.iinfo(dtype)
    if info.min >= 0 and info.max < vocab_size:
        return
    tokens = np.memmap(bin_path, dtype=dtype, mode="r")
    for start in range(0, tokens.size, chunk_tokens):
        chunk = tokens[start : start + chunk_tokens]
        if int(chunk.max()) >= vocab_size or (info.min < 0 and int(chunk.min()) < 0):
            at = int(np.argmax((chunk < 0) | (chunk >= vocab_size)))
            raise DataError(
                str(bin_path),
                required=f"token ids from 0 to {vocab_size - 1} (model.vocab_size {vocab_size})",
                given=f"id {int(chunk[at])} at token {start + at}",
                fix="preprocess with the tokenizer of the checkpoint, or set model.vocab_size to its size",
            )


def _paths(prefix: str | Path) -> tuple[Path, Path]:
    idx_path, bin_path = Path(f"{prefix}.idx").expanduser(), Path(f"{prefix}.bin").expanduser()
    for path in (idx_path, bin_path):
        if not exists(path) or not path.is_file():
            raise DataError(
                "model.data.data_prefix",
                required=f"the pair {idx_path.name} and {bin_path.name} in {idx_path.parent}",
                given=f"no file {str(path)[:200]}",
                fix="give the path without .bin/.idx, or write the pair with examples/preprocess_data.py",
            )
    return idx_path, bin_path


def _check_arrays(idx_path: Path, bin_path: Path, header: IndexHeader) -> None:
    n, d = header.num_sequences, header.num_marks
    lengths, pointers, marks = _arrays(idx_path, header)
    itemsize, size = np.dtype(header.dtype).itemsize, bin_path.stat().st_size
    if n > size // itemsize + _MOST_EMPTY or d > n + 1 + _MOST_EMPTY:
        # A sparse index takes no room on a disk, and hours to read.
        most = f"no more sequences than {bin_path.name} has tokens ({size // itemsize:,}), nor more documents"
        raise _refuse(idx_path, most, f"{n:,} sequences and {d:,} marks")
    end = empty = 0
    for start in range(0, n, _AT_ONCE):
        part = lengths[start : start + _AT_ONCE].astype(np.int64)
        if (part < 0).any():
            raise _refuse(idx_path, "at least one token and no negative length", "a negative one")
        ends = end + np.cumsum(part) * itemsize
        if pointers[start] != end or (pointers[start + 1 : start + len(part)] != ends[:-1]).any():
            raise _refuse(idx_path, "byte offsets that follow from the lengths", "offsets that do not")
        end, empty = int(ends[-1]), empty + int((part == 0).sum())
        if empty > end // itemsize + _MOST_EMPTY:
            raise _refuse(
                idx_path, "sequences that are not mostly empty", f"{empty:,} of {start + len(part):,}"
            )
    if end == 0:
        raise _refuse(idx_path, "at least one token and no negative length", f"{n} sequences")
    if d < 2 or marks[0] != 0 or marks[-1] != n or not _rise(marks):
        raise _refuse(idx_path, f"document marks rising from 0 to {n}", "marks that do not")
    if size != end:
        raise _refuse(bin_path, f"{end} bytes, as {idx_path.name} says", f"{size} bytes")


def _rise(marks: NDArray[np.int64]) -> bool:
    """Whether no mark is below the one before it."""
    starts = range(0, len(marks), _AT_ONCE)
    return all((np.diff(marks[start : start + _AT_ONCE + 1]) >= 0).all() for start in starts)


def _arrays(
    idx_path: Path, header: IndexHeader
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Lengths in tokens, byte offsets and document marks, as views of the file."""
    n, d, start = header.num_sequences, header.num_marks, _HEADER.size
    raw = np.memmap(idx_path, mode="r", dtype=np.uint8)
    return (
        np.frombuffer(raw, np.int32, n, start),
        np.frombuffer(raw, np.int64, n, start + 4 * n),
        np.frombuffer(raw, np.int64, d, start + 12 * n),
    )


def _refuse(path: Path, required: str, given: object) -> DataError:
    return DataError(str(path), required=required, given=given, fix=_REBUILD)
