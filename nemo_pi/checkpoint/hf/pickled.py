"""Weights that torch has pickled (`pytorch_model.bin`), read as tensors and nothing else.

torch's restricted unpickler makes tensors and containers; whatever else a file names is refused and never
imported. Files of torch's zip format are mapped, so that one tensor is in memory at a time; the older format
is read file by file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.checkpoint.files import own_file
from nemo_pi.checkpoint.hf.folder import DTYPES, StoredWeights, indexed_files, is_derived, numbered_files
from nemo_pi.checkpoint.safe_pickle import load_archive
from nemo_pi.errors import CheckpointError

PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"pytorch_model-\d{1,9}-of-\d{1,9}\.bin", re.ASCII)


def has_pickled(folder: Path) -> bool:
    """Whether a folder holds pickled weights under Hugging Face's names."""
    return any((folder / name).is_file() for name in (PICKLED, PICKLED_INDEX)) or any(
        _SHARD.fullmatch(path.name) for path in folder.iterdir()
    )


class PickledWeights(StoredWeights):
    """The pickled tensors of one folder, in the order of its files.

    Args:
        folder: a folder with `pytorch_model.bin`, or shards with or without their index.

    Raises:
        CheckpointError: no such file, a missing, damaged or unsafe one, what is no tensor, or is no float, a
            tensor stored twice.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for file in _files(folder):
            for name, tensor in self._opened(file).items():
                self.add(name, file, tuple(tensor.shape), _dtype_name(tensor, name, file))
        self.check_any()

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._opened(self.file_of[name])[self.stored_name(name)]

    def rows(self, name: str, start: int, count: int) -> Tensor:
        """As StoredWeights."""
        return self.read(name)[start : start + count]

    def _opened(self, file: Path) -> dict[str, Tensor]:
        """The tensors of a file; of the last one only, because those of the older format are in memory."""
        if self._last is None or self._last[0] != file:
            self._last = None
            self._last = (file, _tensors(file, load_archive(file, str(file), mapped=True)))
        return self._last[1]

    _last: tuple[Path, dict[str, Tensor]] | None = None


def _files(folder: Path) -> list[Path]:
    if (folder / PICKLED).is_file():
        found = [folder / PICKLED]
    elif (folder / PICKLED_INDEX).is_file():
        found = indexed_files(folder, PICKLED_INDEX)
    else:
        found = numbered_files(folder, sorted(p for p in folder.iterdir() if _SHARD.fullmatch(p.name)))
    return [own_file(file, folder) for file in found]


def _tensors(file: Path, loaded: Any) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not loaded:
        raise _unusable(file, type(loaded).__name__ if loaded or not isinstance(loaded, dict) else "nothing")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _unusable(file, f"{name!r}: {type(value).__name__}")
    return {name: value for name, value in loaded.items() if not is_derived(name)}


def _unusable(file: Path, given: str) -> CheckpointError:
    return CheckpointError(
        str(file),
        required="a state dict: names and tensors, nothing around them",
        given=given,
        fix="save it as model.save_pretrained does: torch.save(model.state_dict(), file)",
    )


def _dtype_name(tensor: Tensor, name: str, file: Path) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES.values() or tensor.layout is not torch.strided:
        raise CheckpointError(
            f"{file.name}: {name}",
            required=f"one of the dtypes {', '.join(DTYPES.values())}",
            given=dtype if dtype not in DTYPES.values() else str(tensor.layout),
            fix="dequantise the checkpoint first",
        )
    return dtype
