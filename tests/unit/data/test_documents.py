"""Reading pieces of documents, against megatron-core's own reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nemo_pi.data.documents import DocumentReader
from nemo_pi.data.indexed import open_indexed


def test_pieces_of_documents(numbered: Callable[[Sequence[int]], str]) -> None:
    indexed = open_indexed(numbered([4, 0, 7, 3]))
    reader = DocumentReader(indexed, (1, 4))
    assert reader.lengths.tolist() == [0, 7, 3]
    for document in range(3):
        whole = np.concatenate([indexed[document + 1], []]).tolist()
        for skipped in range(len(whole) + 1):
            for count in range(len(whole) - skipped + 1):
                piece = reader.read(document, skipped, count)
                assert piece.dtype == np.int64
                assert piece.tolist() == whole[skipped : skipped + count]
