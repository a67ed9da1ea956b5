"""Whole documents packed into rows, best fit first, what stays free padded and never scored.

A document of n tokens has n − 1 predictions: its first n − 1 tokens are inputs, its last n − 1 labels. One
with more than S inputs is split into chunks of S, each of which stands as a document of its own. Best-fit
decreasing (arXiv 2404.10830) fills rows: the longest chunk first, each into the fullest row that holds it.
That needs the lengths alone, so every epoch has the same number of rows; which of the equally long chunks
goes where, and the order of the rows, are drawn anew each epoch.

Shape legend: S tokens of a row, P chunks, R rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nemo_pi.data.documents import DocumentReader
from nemo_pi.data.indexed import CorpusIndex
from nemo_pi.data.order import Key, PerEpoch, permutation
from nemo_pi.data.samples import Sample, SampleRules, SampleStream, as_sample
from nemo_pi.errors import DataError

if TYPE_CHECKING:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

Ints = NDArray[np.int64]

_CHUNKS, _ROWS = 0, 1


@dataclass(frozen=True)
class Chunks:
    """What is packed: spans of documents, at most S inputs each."""

    documents_P: Ints
    """Number of the document."""
    skipped_P: Ints
    """Tokens of the document before the chunk."""
    lengths_P: Ints
    """Input tokens; one more is read, for the last label."""


def chunked(lengths: Ints, seq_length: int, *, whole: bool = False) -> Chunks:
    """Chunks of documents with these many tokens; documents of one token or none predict nothing.

    Args:
        lengths: tokens of each document.
        seq_length: S.
        whole: leave documents out that are too long for one chunk.
    """
    inputs = np.maximum(lengths - 1, 0)
    if whole:
        inputs = np.where(inputs > seq_length, 0, inputs)
    counts = -(-inputs // seq_length)
    documents_P = np.repeat(np.arange(len(lengths)), counts)
    skipped_P = (np.arange(len(documents_P)) - np.repeat(np.cumsum(counts) - counts, counts)) * seq_length
    return Chunks(documents_P, skipped_P, np.minimum(inputs[documents_P] - skipped_P, seq_length))


def best_fit_decreasing(lengths_P: Ints, capacity: int) -> Ints:
    """The row of each chunk, in order of falling length, and so of each of `lengths_P` sorted that way.

    Args:
        lengths_P: from 1 to `capacity`, falling.
        capacity: tokens of a row.

    Returns:
        Row numbers [P]: 0 … R − 1, every one of them taken.
    """
    rows_P = np.empty(len(lengths_P), dtype=np.int64)
    rows_with_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys above, rising
    num_rows = 0
    for chunk, length in enumerate(lengths_P.tolist()):
        place = bisect_left(rooms, length)
        if place == len(rooms):
            row, room = num_rows, capacity
            num_rows += 1
        else:
            room = rooms[place]
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                del rows_with_room[room], rooms[place]
        rows_P[chunk] = row
        if room > length:
            if room - length not in rows_with_room:
                insort(rooms, room - length)
            rows_with_room.setdefault(room - length, []).append(row)
    return rows_P


@dataclass(frozen=True)
class PackedEpoch:
    """One pass over the documents."""

    chunks_P: Ints
    """Piece numbers, row by row."""
    starts: Ints
    """Where each row begins among `chunks_P`, and the total at the end: [R + 1]."""
    rows_R: Ints
    """Row numbers in reading order."""


class PackedOrder(PerEpoch[PackedEpoch]):
    """Which chunks lie in which row, and the order of rows; per epoch.

    Args:
        lengths_P: inputs of each chunk.
        seq_length: S.
        key: names this stream (seed, split, corpus).
        name: the corpus, for messages.

    Raises:
        DataError: there is nothing to pack.
    """

    def __init__(self, lengths_P: Ints, seq_length: int, key: Key, name: str = "corpus") -> None:
        if not len(lengths_P):
            raise DataError(
                name,
                required="a document of two tokens or more in this split (model.data.pack_documents)",
                given="none",
                fix="add text, or change model.data.splits_string",
            )
        self.lengths_P = lengths_P
        rows_P = best_fit_decreasing(np.sort(lengths_P)[::-1], seq_length)
        # Rows depend on the lengths alone: they are found once, and each epoch fills them with other chunks.
        self._by_row = np.argsort(rows_P, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(rows_P))])
        super().__init__(key, len(self._starts) - 1)

    def chunks(self, index: int) -> Ints:
        """Numbers of the chunks in sample `index`, for any index >= 0."""
        number, place = divmod(index, self.samples_per_epoch)
        epoch = self.epoch(number)
        row = int(epoch.rows_R[place])
        return epoch.chunks_P[epoch.starts[row] : epoch.starts[row + 1]]

    def _make(self, number: int) -> PackedEpoch:
        shuffled = permutation(len(self.lengths_P), (*self.key, number, _CHUNKS))
        # Shuffled first and sorted stably: chunks of one length stay in random order.
        falling = shuffled[np.argsort(-self.lengths_P[shuffled], kind="stable")]
        rows_R = permutation(self.samples_per_epoch, (*self.key, number, _ROWS))
        return PackedEpoch(falling[self._by_row], self._starts, rows_R)


class PackedDataset(SampleStream):
    """Endless, shuffled rows of S tokens, packed with documents of one corpus.

    Attention is confined to each document and positions begin again with it. Padding is a document of its
    own at the end of a row, its loss mask 0.

    Args:
        indexed: corpus, opened and checked by `nemo_pi.data.indexed.open_indexed`.
        documents: [first, last) documents of the corpus to read.
        seq_length: S.
        key: names the stream: (seed, split, corpus).
        rules: positions, eod_mask_loss and length_weights; its other rules are for unpacked text.
        scored: of conversations, which of the corpus' tokens are learned; longer ones than a row are left out
            then, for the end of an answer belongs to its question. None: all are.
    """

    order: PackedOrder

    def __init__(
        self,
        indexed: IndexedDataset | CorpusIndex,
        documents: tuple[int, int],
        *,
        seq_length: int,
        key: Key,
        rules: SampleRules,
        scored: IndexedDataset | CorpusIndex | None = None,
    ) -> None:
        self.seq_length, self.rules = seq_length, rules
        weights = rules.length_weights
        self.reader = DocumentReader(indexed, documents, weights, key)
        # Of the same lengths, so that the same documents are chosen.
        self.scored = None if scored is None else DocumentReader(scored, documents, weights, key)
        self.chunks = chunked(self.reader.lengths, seq_length, whole=scored is not None)
        if scored is not None and not len(self.chunks.lengths_P) and self.reader.lengths.max(initial=0) > 1:
            raise _all_too_long(str(indexed.path_prefix), self.reader.lengths, seq_length)
        self.order = PackedOrder(self.chunks.lengths_P, seq_length, key, name=str(indexed.path_prefix))

    def sample(self, index: int) -> Sample:
        """Sample `index`."""
        chunks = self.order.chunks(index)
        texts = [self._text(int(chunk), self.reader) for chunk in chunks]
        used = sum(len(text) - 1 for text in texts)
        # Any id of the vocabulary will do: what it predicts is not scored, and no one attends to it.
        padding = np.full(self.seq_length - used, self.rules.eod_id or 0, dtype=np.int64)
        loss_mask = (np.arange(self.seq_length) < used).astype(np.float32)
        if self.scored is not None:
            # Of each text's labels, which are its tokens but for the first.
            loss_mask[:used] = np.concatenate([self._text(int(chunk), self.scored)[1:] for chunk in chunks])
        edges = np.cumsum([0, *(len(text) - 1 for text in texts), len(padding)])
        # A full row has no padding, and so no document of it.
        boundaries = np.unique(edges)
        return as_sample(
            np.concatenate([*(text[:-1] for text in texts), padding]),
            np.concatenate([*(text[1:] for text in texts), padding]),
            loss_mask,
            self.rules.positions(boundaries, self.order.draw_key(index)),
            boundaries,
            self.rules,
        )

    def _text(self, chunk: int, reader: DocumentReader) -> Ints:
        """The tokens of a chunk and the one that follows them; or what is said of each."""
        document, skipped, length = (
            int(part[chunk])
            for part in (self.chunks.documents_P, self.chunks.skipped_P, self.chunks.lengths_P)
        )
        return reader.read(document, skipped, length + 1)


def _all_too_long(name: str, lengths: Ints, seq_length: int) -> DataError:
    # One more token than a sample has inputs: the last one is a label alone.
    shortest = int(lengths[lengths > 1].min()) - 1
    return DataError(
        name,
        required=f"a conversation of at most {seq_length + 1:,} tokens in each split (each is read whole)",
        given=f"{len(lengths):,}, the shortest of {shortest + 1:,}",
        fix=f"model.encoder_seq_length={shortest} or more, or add shorter conversations",
    )
