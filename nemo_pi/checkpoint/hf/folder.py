"""The tensors of a Hugging Face folder: found, checked against a shape, and read slice by slice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nemo_pi.checkpoint.files import read_json
from nemo_pi.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Tables that old Llama exports store although they follow from the configuration.
_DERIVED = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")

_SHARD = re.compile(r"model-\d{1,9}-of-\d{1,9}\.safetensors", re.ASCII)

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Storage dtypes by their safetensors names."""


class HuggingFaceWeights:
    """The safetensors of one folder; only headers are read until a slice is asked for.

    Args:
        folder: a folder with `model.safetensors`, or shards with their index.

    Raises:
        CheckpointError: no safetensors, a missing, truncated or damaged file, a tensor stored twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file_of: dict[str, Path] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._stored_as: dict[str, str] = {}
        for file in _weight_files(folder):
            self._read_header(file)

    def _read_header(self, file: Path) -> None:
        with opened(file) as handle:
            for name in handle.keys():  # noqa: SIM118 - a safe_open handle is not a mapping
                if _DERIVED.search(name):
                    continue
                if name in self.file_of:
                    raise CheckpointError(
                        str(self.folder),
                        required="each tensor in one file",
                        given=f"{name} in {self.file_of[name].name} and {file.name}",
                        fix="remove the file that does not belong to this model",
                    )
                part = handle.get_slice(name)
                self.file_of[name] = file
                self.sizes[name] = tuple(part.get_shape())
                self.dtypes[name] = _dtype_name(part.get_dtype(), name, file)

    def rename(self, stored: str, name: str) -> None:
        """Offers the tensor `stored` under another name from now on; the file is left alone."""
        tables: tuple[dict[str, Any], ...] = (self.file_of, self.sizes, self.dtypes)
        for table in tables:
            table[name] = table.pop(stored)
        self._stored_as[name] = stored

    def check(self, expected: Mapping[str, tuple[int, ...]], *, also_allowed: frozenset[str]) -> None:
        """Compares names and shapes with what a model of this shape must have.

        Raises:
            CheckpointError: naming the first missing, unexpected or wrongly shaped tensor.
        """
        missing = [name for name in expected if name not in self.sizes]
        if missing:
            raise self._mismatch("tensor " + missing[0], f"none ({len(missing)} missing)")
        surplus = [name for name in self.sizes if name not in expected and name not in also_allowed]
        if surplus:
            raise self._mismatch(
                "only tensors of this architecture", f"{surplus[0]} ({len(surplus)} unexpected)"
            )
        for name, sizes in expected.items():
            if self.sizes[name] != sizes:
                raise self._mismatch(f"{name} of shape {list(sizes)}", f"shape {list(self.sizes[name])}")

    def _mismatch(self, required: str, given: str) -> CheckpointError:
        return CheckpointError(
            str(self.folder),
            required=required,
            given=given,
            fix="check that config.json and the safetensors come from the same model",
        )

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
            sizes, name = self.sizes[name], self._stored_as.get(name, name)
            first, end = rows or (0, sizes[0])
            if dim is None or parts == 1:
                whole = (first, end) == (0, sizes[0])
                return handle.get_tensor(name) if whole else handle.get_slice(name)[first:end]
            length = end - first if dim == 0 else sizes[dim]
            if length % parts:
                raise CheckpointError(
                    name,
                    required=f"dimension {dim} divisible by the tensor-parallel size {parts}",
                    given=length,
                    fix="choose model.tensor_model_parallel_size so that it divides heads, groups, "
                    "feed-forward size and vocabulary",
                )
            size = length // parts
            source = handle.get_slice(name)
            if dim == 0:
                return source[first + part * size : first + (part + 1) * size]
            return source[first:end, part * size : (part + 1) * size]

    def rows(self, name: str, start: int, count: int) -> Tensor:
        """Up to `count` rows of a matrix from row `start` on, as stored."""
        with opened(self.file_of[name]) as handle:
            return handle.get_slice(self._stored_as.get(name, name))[start : start + count]


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file, with its reader's errors as CheckpointError."""
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            str(file),
            required="a complete safetensors file",
            given=error,
            fix="download or copy this file again: it is truncated or damaged",
        ) from error


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
        return _indexed_files(folder)
    shards = sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    if shards:
        return _unindexed_files(folder, shards)
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt")])
    if pickles:
        raise CheckpointError(
            str(folder),
            required=f"{SINGLE} or {INDEX}",
            given=f"only pickled weights ({pickles[0].name}), which can run code when loaded",
            fix="convert them to safetensors once, in a sandbox: model.save_pretrained(folder)",
        )
    raise CheckpointError(
        str(folder),
        required=f"{SINGLE} or {INDEX}",
        given="no safetensors file",
        fix="give the folder that holds config.json and the safetensors",
    )


def _indexed_files(folder: Path) -> list[Path]:
    mapping = read_json(folder / INDEX).get("weight_map")
    present = {path.name for path in folder.iterdir() if path.is_file()}
    names = sorted({str(name) for name in mapping.values()}) if isinstance(mapping, dict) else []
    for name in names or [""]:
        # Looked up, never joined to the folder: a name with a path in it would read a file elsewhere.
        if name not in present:
            raise CheckpointError(
                f"{folder / INDEX}: weight_map",
                required="files that lie in this folder",
                given=repr(name) if names else "no weight_map",
                fix="download or copy the missing shard",
            )
    return [folder / name for name in names]


def _unindexed_files(folder: Path, shards: list[Path]) -> list[Path]:
    # Without an index the names alone say how many there should be.
    total = int(shards[0].stem.rsplit("-", 1)[-1])
    if len(shards) != total:
        raise CheckpointError(
            str(folder),
            required=f"{total} shards, as {shards[0].name} says",
            given=f"{len(shards)}",
            fix="download or copy the missing shards",
        )
    return shards
