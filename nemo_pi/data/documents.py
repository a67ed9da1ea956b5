"""Some documents of an indexed corpus, read piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nemo_pi.data.indexed import CorpusIndex
from nemo_pi.data.length_weights import FIELD, LengthWeights
from nemo_pi.data.order import Key
from nemo_pi.data.token_file import TokenFile
from nemo_pi.errors import DataError
from nemo_pi.units import plural

if TYPE_CHECKING:  # Megatron imports slowly, and data is checked without it
    from megatron.core.datasets.indexed_dataset import IndexedDataset


class DocumentReader:
    """Tokens of documents, numbered from 0.

    Args:
        indexed: corpus, opened and checked by `nemo_pi.data.indexed.open_indexed`.
        documents: [first, last) documents of the corpus; each is one or more of its sequences.
        weights: how often documents are read, by length; they are then numbered as they are read. None: each
            once.
        key: names the stream (seed, split, corpus); it decides which documents a fraction takes.

    Raises:
        DataError: no document is left to read.
    """

    def __init__(
        self,
        indexed: IndexedDataset | CorpusIndex,
        documents: tuple[int, int],
        weights: LengthWeights | None = None,
        key: Key = (),
    ) -> None:
        self._tokens: TokenFile | None = None
        if not isinstance(indexed, CorpusIndex):
            self._tokens = TokenFile(f"{indexed.path_prefix}.bin", indexed.index.dtype)
        # In int64: lengths are int32, and corpora hold more than 2^31 tokens.
        token_starts = np.concatenate([[0], np.cumsum(indexed.sequence_lengths, dtype=np.int64)])
        marks = token_starts[indexed.document_indices[documents[0] : documents[1] + 1]]
        self._first_token = marks[:-1]
        self.lengths: NDArray[np.int64] = np.diff(marks)
        """Tokens of each document."""
        if weights is not None:
            chosen = weights.chosen(self.lengths, key)
            if not len(chosen):
                raise DataError(
                    str(indexed.path_prefix),
                    required=f"documents that {FIELD} leaves in each corpus",
                    given=f"none of {plural(len(self.lengths), 'document')}",
                    fix=f"give its lengths a larger weight, or {FIELD}=null",
                )
            self._first_token, self.lengths = self._first_token[chosen], self.lengths[chosen]

    def read(self, document: int, skipped: int, count: int) -> NDArray[np.int64]:
        """`count` tokens of a document, behind its first `skipped`."""
        assert self._tokens is not None, "an index alone holds no tokens"
        return self._tokens.read(int(self._first_token[document]) + skipped, count)
