"""Where activations wait for their backward pass: in pinned host memory, or in a file."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.model.activation_store import IN_PLACE, Form, Held, Store, laid_out
from nemo_pi.model.options import DISK, HOST

# Writes that wait for the disk at most: a slower disk than the layers then holds them up, not memory.
_WRITES_AT_ONCE = 2


class HostStore:
    """Pinned host memory, over a stream of its own, for tensors of a CUDA device.

    Buffers are used again from step to step: pinning memory takes longer than filling it.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._free: dict[tuple[torch.dtype, int], list[Tensor]] = defaultdict(list)

    def put(self, tensors: Sequence[Tensor]) -> Held:
        """As Store."""
        parts = [laid_out(tensor) for tensor in tensors]
        self._stream.wait_stream(torch.cuda.current_stream())
        buffers = []
        with torch.cuda.stream(self._stream):
            for flat, _ in parts:
                buffer = self._buffer(flat)
                buffer.copy_(flat, non_blocking=True)
                # Else the device's allocator would give the memory away while it is still being read.
                flat.record_stream(self._stream)
                buffers.append(buffer)
        return _OnHost(self, buffers, [form for _, form in parts], tensors[0].device)

    def begin(self, buffers: Sequence[Tensor], device: torch.device) -> tuple[list[Tensor], Any]:
        """Copies on their way to the device, and the event that they have arrived; the buffers are free.

        What fills a buffer next is queued on the same stream, behind these copies.
        """
        with torch.cuda.stream(self._stream):
            found = [buffer.to(device, non_blocking=True) for buffer in buffers]
            arrived = self._stream.record_event()
        self.release(buffers)
        return found, arrived

    def release(self, buffers: Sequence[Tensor]) -> None:
        """Buffers that others may have."""
        for buffer in buffers:
            self._free[buffer.dtype, buffer.numel()].append(buffer)

    def _buffer(self, like: Tensor) -> Tensor:
        free = self._free[like.dtype, like.numel()]
        return free.pop() if free else torch.empty(like.numel(), dtype=like.dtype, pin_memory=True)


class _OnHost:
    def __init__(
        self, store: HostStore, buffers: list[Tensor], forms: list[Form], device: torch.device
    ) -> None:
        self._store, self._forms, self._device = store, forms, device
        self._buffers: list[Tensor] | None = buffers
        self._coming: tuple[list[Tensor], Any] | None = None

    def fetch(self) -> None:
        if self._buffers is not None:
            self._coming = self._store.begin(self._buffers, self._device)
            self._buffers = None

    def get(self) -> list[Tensor]:
        self.fetch()
        assert self._coming is not None, "taken once"
        (found, arrived), self._coming = self._coming, None
        now = torch.cuda.current_stream()
        now.wait_event(arrived)
        for flat in found:
            flat.record_stream(now)
        return [form.of(flat) for form, flat in zip(self._forms, found, strict=True)]

    def __del__(self) -> None:  # of a pass that was given up
        if self._buffers is not None:
            self._store.release(self._buffers)


class DiskStore:
    """A file without a name, which ends with the process however that ends.

    Places are reserved before they are written, and used again from step to step. One thread writes and reads
    in order, while layers compute.

    Args:
        folder: on the disk that takes the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="nemo_pi-activations")
        self._writes: deque[Future[None]] = deque()
        self._free: dict[int, list[int]] = defaultdict(list)
        self._end = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._end

    def put(self, tensors: Sequence[Tensor]) -> Held:
        """As Store."""
        parts = [laid_out(tensor) for tensor in tensors]
        size = sum(flat.nbytes for flat, _ in parts)
        place = self._reserve(size)
        while len(self._writes) >= _WRITES_AT_ONCE:
            self._writes.popleft().result()
        # On the CPU the tensors themselves: they live until they are written.
        copies = [flat.cpu() for flat, _ in parts]
        self._writes.append(self._worker.submit(self._write, place, copies))
        return _OnDisk(self, place, size, parts)

    def begin(self, place: int, flats: Sequence[Tensor], size: int) -> Future[None]:
        """Reads into given tensors; the place is free: what is written there next is queued behind."""
        reading = self._worker.submit(self._read, place, flats)
        self.release(place, size)
        return reading

    def release(self, place: int, size: int) -> None:
        """A place that others may have."""
        self._free[size].append(place)

    def _reserve(self, size: int) -> int:
        if self._free[size]:
            return self._free[size].pop()
        place, self._end = self._end, self._end + size
        try:
            if self._file is None:
                # Linux makes a file that no folder ever lists; elsewhere its name is removed at once.
                self._file = tempfile.TemporaryFile(  # noqa: SIM115 (it lasts as long as the store)
                    dir=self._folder, prefix="nemo_pi-activations-", buffering=0
                )
            os.posix_fallocate(self._file.fileno(), place, size)
        except OSError as error:
            raise ConfigError(
                "model.activations_offload_folder",
                required=f"a folder with {self._end} bytes of free space for the activations",
                given=f"{self._folder}: {error}",
                fix="free some space there, or name a folder on another disk",
            ) from error
        return place

    def _write(self, place: int, flats: Sequence[Tensor]) -> None:
        for flat in flats:
            data = _bytes_of(flat)
            while data:
                written = os.pwrite(self._file.fileno(), data, place)
                place, data = place + written, data[written:]

    def _read(self, place: int, flats: Sequence[Tensor]) -> None:
        for flat in flats:
            data = _bytes_of(flat)
            while data:
                read = os.preadv(self._file.fileno(), [data], place)
                if read == 0:
                    raise OSError(
                        f"the file of activations in {self._folder} is shorter than what was written"
                    )
                place, data = place + read, data[read:]


class _OnDisk:
    def __init__(self, store: DiskStore, place: int, size: int, parts: Sequence[tuple[Tensor, Form]]) -> None:
        self._store, self._place, self._size = store, place, size
        self._kinds = [(flat.dtype, flat.numel(), flat.device, form) for flat, form in parts]
        self._flats: list[Tensor] = []
        self._reading: Future[None] | None = None

    def fetch(self) -> None:
        if self._reading is None:
            self._flats = [torch.empty(numel, dtype=dtype) for dtype, numel, _, _ in self._kinds]
            self._reading = self._store.begin(self._place, self._flats, self._size)

    def get(self) -> list[Tensor]:
        self.fetch()
        assert self._reading is not None
        self._reading.result()
        flats, self._flats = self._flats, []
        kinds = zip(flats, self._kinds, strict=True)
        return [form.of(flat.to(device)) for flat, (_, _, device, form) in kinds]

    def __del__(self) -> None:  # of a pass that was given up
        if self._reading is None:
            self._store.release(self._place, self._size)


def _bytes_of(flat: Tensor) -> Any:
    return flat.view(torch.uint8).numpy().data


def store_of(kind: str | None, folder: str | None = None) -> Store:
    """The store that model.activations_offload asks for.

    Args:
        kind: host, disk, or None to leave activations where they are.
        folder: of the file, where kind is disk.
    """
    if kind is None:
        return IN_PLACE
    if kind == HOST:
        return HostStore()
    assert kind == DISK and folder is not None, kind
    return DiskStore(Path(folder))
