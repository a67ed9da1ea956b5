"""The tensors of a Hugging Face folder: found, checked against a shape, and read slice by slice."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nemo_pi.bounded.files import open_regular
from nemo_pi.checkpoint.files import own_file, read_json
from nemo_pi.checkpoint.hf.names import mismatches
from nemo_pi.errors import CheckpointError
from nemo_pi.units import size_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Tables that old Llama exports store although they follow from the configuration.
_DERIVED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")

_SHARD = re.compile(r"model-\d{1,9}-of-\d{1,9}\.safetensors", re.ASCII)

Sizes = tuple[int, ...]
# A tensor takes some 120 bytes of the header, and its smallest, a norm, as many hundred behind it.
_HEADER_FREE, _MOST_HEADER = 1 << 20, 1 << 24

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Storage dtypes by their safetensors names."""


def is_derived(name: str) -> bool:
    """Whether a stored tensor only repeats what follows from the configuration."""
    return _DERIVED.search(name) is not None


class StoredWeights(ABC):
    """Named tensors of a model in files, in whatever format; `folder` is where they lie.

    Attributes:
        file_of, sizes, dtypes: of every tensor by name, in the order of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file_of: dict[str, Path] = {}
        self.sizes: dict[str, Sizes] = {}
        self.dtypes: dict[str, str] = {}
        self._stored_as: dict[str, str] = {}

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One tensor, as stored."""

    @abstractmethod
    def rows(self, name: str, start: int, count: int) -> Tensor:
        """Up to `count` rows of a matrix from row `start` on, as stored."""

    def add(self, name: str, file: Path, sizes: Sizes, dtype: str) -> None:
        """Notes down a tensor that is not derived.

        Raises:
            CheckpointError: it is stored twice.
        """
        if name in self.file_of:
            raise CheckpointError(
                str(self.folder),
                required="each tensor in one file",
                given=f"{name} in {self.file_of[name].name} and {file.name}",
                fix="remove the file that does not belong to this model",
            )
        self.file_of[name], self.sizes[name], self.dtypes[name] = file, sizes, dtype

    def rename(self, stored: str, name: str) -> None:
        """Offers the tensor `stored` under another name from now on; the file is left alone."""
        tables: tuple[dict[str, Any], ...] = (self.file_of, self.sizes, self.dtypes)
        for table in tables:
            table[name] = table.pop(stored)
        self._stored_as[name] = stored

    def stored_name(self, name: str) -> str:
        """The name that a tensor has in its file."""
        return self._stored_as.get(name, name)

    def check_any(self) -> None:
        """Refuses weights that hold no tensor.

        Raises:
            CheckpointError: they do not.
        """
        if not self.sizes:
            raise CheckpointError(
                str(self.folder),
                required="a model's tensors",
                given="weights without any",
                fix="download or copy the weights again: what lies here is empty",
            )

    def check(self, expected: Mapping[str, Sizes], *, also_allowed: frozenset[str]) -> None:
        """Compares names and shapes with what a model of this shape must have.

        Raises:
            CheckpointError: naming all tensors that are missing, unexpected or wrongly shaped.
        """
        wrong = mismatches(self.sizes, expected, also_allowed)
        if wrong:
            required, given = ("; ".join(parts) for parts in zip(*wrong, strict=True))
            fix = "check that config.json and the safetensors come from the same model"
            raise CheckpointError(str(self.folder), required=required, given=given, fix=fix)


class HuggingFaceWeights(StoredWeights):
    """The safetensors of one folder; only headers are read until a slice is asked for.

    Args:
        folder: a folder with `model.safetensors`, or shards with their index.

    Raises:
        CheckpointError: no safetensors, a missing, truncated, damaged or empty file, a link that leaves the
            folder for anywhere but the hub's cache, a tensor stored twice.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for file in _weight_files(folder):
            self._read_header(own_file(file, folder))
        self.check_any()

    def _read_header(self, file: Path) -> None:
        with opened(file) as handle:
            for name in handle.keys():  # noqa: SIM118 - a safe_open handle is not a mapping
                if not is_derived(name):
                    part = handle.get_slice(name)
                    dtype = _dtype_name(part.get_dtype(), name, file)
                    self.add(name, file, tuple(part.get_shape()), dtype)

    def read(
        self,
        name: str,
        dim: int | None = None,
        part: int = 0,
        parts: int = 1,
        rows: tuple[int, int] | None = None,
    ) -> Tensor:
        """Slice number `part` of `parts` equal ones along `dim` (None: all of it), as stored.

        Args:
            rows: first row and the one behind the last, of which the slice is taken; None takes all.

        Raises:
            CheckpointError: the dimension does not divide, or the file can no longer be read.
        """
        with opened(self.file_of[name]) as handle:
            sizes, name = self.sizes[name], self.stored_name(name)
            first, end = rows or (0, sizes[0])
            if dim is None or parts == 1:
                whole = (first, end) == (0, sizes[0])
                return handle.get_tensor(name) if whole else handle.get_slice(name)[first:end]
            size = share_of(name, dim, end - first if dim == 0 else sizes[dim], parts)
            source = handle.get_slice(name)
            if dim == 0:
                return source[first + part * size : first + (part + 1) * size]
            return source[first:end, part * size : (part + 1) * size]

    def rows(self, name: str, start: int, count: int) -> Tensor:
        """As StoredWeights."""
        with opened(self.file_of[name]) as handle:
            return handle.get_slice(self.stored_name(name))[start : start + count]


def share_of(name: str, dim: int, length: int, parts: int) -> int:
    """Rows or columns of a tensor on each of `parts` ranks.

    Raises:
        CheckpointError: they cannot be shared evenly.
    """
    if length % parts:
        raise CheckpointError(
            name,
            required=f"dimension {dim} divisible by the tensor-parallel size {parts}",
            given=length,
            fix="choose model.tensor_model_parallel_size so that it divides heads, groups and the "
            "feed-forward size",
        )
    return length // parts


def has_safetensors(folder: Path) -> bool:
    """Whether a folder holds safetensors under Hugging Face's names."""
    return any((folder / name).is_file() for name in (SINGLE, INDEX)) or any(
        _SHARD.fullmatch(path.name) for path in folder.iterdir()
    )


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file, with its reader's errors as CheckpointError."""
    try:
        _check_header(file)
        with safe_open(file, framework="pt", device="cpu") as handle:
            yield handle
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            str(file),
            required="a complete safetensors file",
            given=error,
            fix="download or copy this file again: it is truncated or damaged",
        ) from error
    except RuntimeError as error:
        # torch maps the file privately, which Linux counts as memory that could be written to.
        if "mmap" not in str(error):
            raise
        raise CheckpointError(
            str(file),
            required="a file that this machine can map, roughly its memory and swap at most",
            given=f"{size_of(file.stat().st_size)}: {error}",
            fix="write it in smaller files (transformers: save_pretrained(..., max_shard_size='5GB')), "
            "or let Linux map more than it has: sysctl vm.overcommit_memory=1",
        ) from error


def _check_header(file: Path) -> None:
    """Refuses a header longer than the tensors that it describes, which would be parsed whole.

    Raises:
        ValueError: with both lengths.
    """
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        rest = max(0, os.fstat(stream.fileno()).st_size - 8 - length)
    most = min(_MOST_HEADER, _HEADER_FREE + rest)
    if length > most:
        raise ValueError(f"a header of {length:,} bytes for {rest:,} of tensors")


def _dtype_name(stored: str, name: str, file: Path) -> str:
    if stored not in DTYPES:
        raise CheckpointError(
            f"{file.name}: {name}",
            required=f"one of the dtypes {', '.join(DTYPES.values())}",
            given=stored,
            fix="dequantise the checkpoint first",
        )
    return DTYPES[stored]


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return indexed_files(folder, INDEX)
    shards = sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    if shards:
        return numbered_files(folder, shards)
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt")])
    if pickles:
        raise CheckpointError(
            str(folder),
            required=f"{SINGLE} or {INDEX}",
            given=f"only pickled weights ({pickles[0].name})",
            fix="convert them to safetensors once, which reads tensors and runs no code: "
            f"python examples/convert_checkpoint.py {folder} NEW_FOLDER",
        )
    raise CheckpointError(
        str(folder),
        required=f"{SINGLE} or {INDEX}",
        given="no safetensors file",
        fix="give the folder that holds config.json and the safetensors",
    )


def indexed_files(folder: Path, index: str) -> list[Path]:
    """The files that an index names.

    Raises:
        CheckpointError: it names none, or one that is not in the folder.
    """
    mapping = read_json(folder / index).get("weight_map")
    present = {path.name for path in folder.iterdir() if path.is_file()}
    names = sorted({str(name) for name in mapping.values()}) if isinstance(mapping, dict) else []
    for name in names or [""]:
        # Looked up, never joined to the folder: a name with a path in it would read a file elsewhere.
        if name not in present:
            raise CheckpointError(
                f"{folder / index}: weight_map",
                required="files that lie in this folder",
                given=repr(name) if names else "no weight_map",
                fix="download or copy the missing shard",
            )
    return [folder / name for name in names]


def numbered_files(folder: Path, shards: list[Path]) -> list[Path]:
    """Shards without an index, whose names alone say how many there should be.

    Raises:
        CheckpointError: some are missing.
    """
    total = int(shards[0].stem.rsplit("-", 1)[-1])
    if len(shards) != total:
        raise CheckpointError(
            str(folder),
            required=f"{total} shards, as {shards[0].name} says",
            given=f"{len(shards)}",
            fix="download or copy the missing shards",
        )
    return shards
