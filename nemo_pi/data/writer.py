"""Writes one ``.bin``/``.idx`` pair so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_pi.data.indexed import validate_pair, write_index
from nemo_pi.errors import DataError

_FITS_16_BITS = 65_500
"""Vocabulary from which on megatron-core takes 32 bits a token."""


class PairWriter:
    """What megatron-core's builder writes, byte for byte, under temporary names until `commit`.

    Args:
        prefix: final path without extension; its folder is made.
        vocab_size: decides the element type: uint16 below 65,500 ids, else int32.
        overwrite: replace an existing pair.
        dtype: element type; None: by `vocab_size`.

    Raises:
        DataError: the pair exists and `overwrite` is not given.
    """

    def __init__(
        self,
        prefix: str,
        vocab_size: int,
        *,
        overwrite: bool = False,
        dtype: type[np.integer] | None = None,
    ) -> None:
        self.prefix, self.vocab_size = prefix, vocab_size
        final = [Path(f"{prefix}{suffix}") for suffix in (".bin", ".idx")]
        present = [str(path) for path in final if path.exists()]
        if present and not overwrite:
            raise DataError(
                "--output-prefix",
                required="a name that is free",
                given=f"{', '.join(present)}, already there",
                fix="choose another prefix or give --overwrite",
            )
        final[0].parent.mkdir(parents=True, exist_ok=True)
        self._final = final
        self._partial_prefix = f"{prefix}.partial-{os.getpid()}"
        self._partial = [Path(f"{self._partial_prefix}{path.suffix}") for path in final]
        self._dtype: type[np.integer] = dtype or (np.uint16 if vocab_size < _FITS_16_BITS else np.int32)
        self._lengths: list[int] = []
        self._bin = open(self._partial[0], "wb")  # noqa: SIM115  closed by finish or discard

    def add_document(self, ids: NDArray[Any]) -> None:
        """Append one document of at least one token.

        Raises:
            DataError: ids that the tokenizer's vocabulary does not hold (they would wrap around silently).
        """
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size:
            raise DataError(
                self.prefix,
                required=f"token ids below {self.vocab_size}",
                given=f"ids from {int(ids.min())} to {int(ids.max())}",
                fix="check the tokenizer's files",
            )
        self._bin.write(ids.astype(self._dtype).tobytes())
        self._lengths.append(ids.size)

    def finish(self, source: str) -> None:
        """Write the index, flush both files to disk and check them, still under temporary names.

        Raises:
            DataError: nothing was added (`source` is named), or the files do not hold what was written.
        """
        if not self._lengths:
            raise DataError(source, required="some text", given="none", fix="check --input and --json-keys")
        self._bin.close()
        write_index(self._partial[1], self._dtype, self._lengths)
        for path in self._partial:
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
        validate_pair(self._partial_prefix)

    def commit(self) -> None:
        """Give the finished pair its final names, the index last."""
        # Without its index a .bin is no dataset: never let an old index point into a new .bin.
        self._final[1].unlink(missing_ok=True)
        for partial, final in zip(self._partial, self._final, strict=True):
            os.replace(partial, final)

    def discard(self) -> None:
        """Remove what was not committed; nothing to do after `commit`."""
        self._bin.close()
        for path in self._partial:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
