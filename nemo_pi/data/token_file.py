"""Tokens of a ``.bin``, read piece by piece without mapping it into memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nemo_pi.errors import DataError


class TokenFile:
    """The ``.bin`` of a corpus that has been checked.

    A file that is mapped, as megatron-core's reader does, ends the process without a word (SIGBUS) when it is
    truncated while it is read. A read that comes back short is an error with a name.

    Args:
        path: of the file.
        dtype: of its tokens.
    """

    def __init__(self, path: str | Path, dtype: DTypeLike) -> None:
        self.path, self.dtype = Path(path).expanduser(), np.dtype(dtype)
        self._descriptor: int | None = None

    def read(self, first: int, count: int) -> NDArray[np.int64]:
        """`count` tokens from token `first` on.

        Raises:
            DataError: the file has become shorter, or cannot be read any more.
        """
        size, offset = count * self.dtype.itemsize, first * self.dtype.itemsize
        try:
            raw = self._read(size, offset)
        except OSError as error:
            raise self._refusal(offset + size, str(error)) from error
        if len(raw) < size:
            raise self._refusal(offset + size, f"{os.stat(self.path).st_size} bytes")
        return np.frombuffer(raw, dtype=self.dtype).astype(np.int64)

    def _read(self, size: int, offset: int) -> bytes:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        # One read returns 2 GiB at most, and over a network less where it likes.
        parts = []
        while size > 0 and (part := os.pread(self._descriptor, size, offset)):
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return b"".join(parts)

    def _refusal(self, wanted: int, given: str) -> DataError:
        return DataError(
            str(self.path),
            required=f"at least {wanted} bytes, as when the run began",
            given=given,
            fix="leave data alone while a run reads it: restore the file and start again, which goes on from "
            "the last checkpoint",
        )

    def __getstate__(self) -> dict[str, Any]:
        # A data-loading process that is sent this object opens the file itself.
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
