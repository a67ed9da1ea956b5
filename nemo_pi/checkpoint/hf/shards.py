"""Safetensors files of bounded size, filled tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nemo_pi.checkpoint.collective import as_checkpoint_error
from nemo_pi.checkpoint.files import sync_path, write_json
from nemo_pi.checkpoint.hf.folder import INDEX, SINGLE
from nemo_pi.errors import CheckpointError


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names dealt into shards in order; a shard is closed before it would exceed `max_bytes`.

    A tensor that is larger than that by itself gets a shard of its own.

    Args:
        sizes: bytes of each tensor, in the order they will arrive.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


class ShardWriter:
    """Writes a folder's safetensors as tensors arrive, holding one shard at a time.

    A write that fails is kept until `finish`: the ranks that send tensors must not be left waiting.

    Args:
        folder: an existing folder.
        shapes: whole shapes of all tensors, in the order they will arrive.
        dtype_of: storage dtype of each tensor.
        max_bytes: size of one file at most.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype_of: Callable[[str], torch.dtype],
        max_bytes: int,
    ) -> None:
        self.folder, self.dtype_of = folder, dtype_of
        self.bytes_of = {
            name: torch.Size(shape).numel() * dtype_of(name).itemsize for name, shape in shapes.items()
        }
        self.plan = plan_shards(self.bytes_of, max_bytes)
        self.file_of: dict[str, str] = {}
        self.pending: dict[str, Tensor] = {}
        self.error: Exception | None = None

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes the next tensor (CPU, contiguous); writes the shard when it is the last of it."""
        if self.error is not None:
            return
        try:
            self.pending[name] = self._converted(name, tensor)
            number = len(set(self.file_of.values()))
            if len(self.pending) == len(self.plan[number]):
                self._write(number)
        except Exception as error:  # raised by finish, after every sender is done
            self.error = error
            self.pending.clear()

    def _converted(self, name: str, tensor: Tensor) -> Tensor:
        dtype = self.dtype_of(name)
        converted = tensor.to(dtype)
        if converted is tensor:
            return tensor
        # fp16 ends at 65,504. What was infinite before is not the conversion's doing.
        if not torch.isfinite(converted).all() and torch.isfinite(tensor).all():
            raise CheckpointError(
                name,
                required=f"values within the range of {dtype}",
                given=f"up to {tensor.abs().max().item():.3g}",
                fix="export as bfloat16 or float32",
            )
        return converted

    def _write(self, number: int) -> None:
        total = len(self.plan)
        file = SINGLE if total == 1 else f"model-{number + 1:05d}-of-{total:05d}.safetensors"
        save_file(self.pending, self.folder / file, metadata={"format": "pt"})
        # safetensors gives its owner alone the right to read; follow the folder, and so the umask, instead.
        (self.folder / file).chmod(self.folder.stat().st_mode & 0o666)
        sync_path(self.folder / file)
        self.file_of.update(dict.fromkeys(self.pending, file))
        self.pending.clear()

    def finish(self) -> None:
        """Writes the index, if there are several files.

        Raises:
            CheckpointError: a tensor could not be written or did not arrive.
        """
        if isinstance(self.error, CheckpointError):
            raise self.error
        with as_checkpoint_error(
            str(self.folder),
            required="a complete export",
            fix="check free space and permissions",
            written_to=self.folder,
        ):
            if self.error is not None:
                raise self.error
        missing = [name for name in self.bytes_of if name not in self.file_of]
        assert not missing, f"never arrived: {missing}"
        if len(self.plan) > 1:
            size = sum(self.bytes_of.values())
            write_json(self.folder / INDEX, {"metadata": {"total_size": size}, "weight_map": self.file_of})
