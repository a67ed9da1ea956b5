"""Samples of fixed length, each with its positions and document boundaries, cut from a stream of documents.

Shape legend: S tokens of a sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from nemo_pi.data.documents import DocumentReader
from nemo_pi.data.indexed import CorpusIndex
from nemo_pi.data.length_weights import LengthWeights
from nemo_pi.data.order import Epoch, EpochOrder, Key, PerEpoch, generator
from nemo_pi.data.pose_sampler import draw_chunks
from nemo_pi.data.position_ids import PlainPositions, PositionMaker
from nemo_pi.errors import DataError
from nemo_pi.rope.pose_spec import PoseSpec
from nemo_pi.units import plural

if TYPE_CHECKING:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

Sample = dict[str, Tensor]
"""tokens, labels, position_ids int64[S]; loss_mask float32[S]; cu_seqlens int32[S+1], padded with S."""

# The released code of PoSE reads a document as far as this many training lengths.
_RELEASED_REACH = 5


class SampleStream(Dataset[Sample], ABC):
    """An endless stream of samples; sample i is a function of the stream's key and i alone."""

    order: PerEpoch[Any]
    """What each epoch of the stream reads."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one pass over the documents."""
        return self.order.samples_per_epoch

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Sample `index`, for any index >= 0."""

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)


@dataclass(frozen=True)
class SampleRules:
    """How text becomes a sample."""

    positions: PositionMaker = field(default_factory=PlainPositions)
    """Makes ``position_ids``."""
    moved_text: PoseSpec | None = None
    """Chunks after the first are read from further on, as this draws them; the sample is contiguous then.
    None: the text runs on."""
    reset_attention_mask: bool = False
    """Mark every document in ``cu_seqlens``, and mask each label that would cross into another one.
    False: the sample is contiguous, as GPT training concatenates."""
    eod_mask_loss: bool = False
    """No loss where the input token is the end of a document. False: loss everywhere."""
    eod_id: int | None = None
    """The end-of-document id; needed by `eod_mask_loss` only."""
    length_weights: LengthWeights | None = None
    """How often documents are read, by length; None: each once in a pass."""


class SampleDataset(SampleStream):
    """Endless, shuffled samples of S tokens from some documents of one corpus.

    Sample i is a function of (key, i) alone. Indices beyond the first epoch go on in the next.

    Args:
        indexed: corpus, opened and checked by `nemo_pi.data.indexed.open_indexed`.
        documents: [first, last) documents of the corpus to read.
        seq_length: S.
        key: names the stream: (seed, split, corpus).
        rules: how a window becomes a sample.
    """

    order: EpochOrder

    def __init__(
        self,
        indexed: IndexedDataset | CorpusIndex,
        documents: tuple[int, int],
        *,
        seq_length: int,
        key: Key,
        rules: SampleRules,
    ) -> None:
        self.seq_length, self.rules = seq_length, rules
        self.reader = DocumentReader(indexed, documents, rules.length_weights, key)
        self.order = EpochOrder(self.reader.lengths, seq_length, key, name=str(indexed.path_prefix))
        if rules.moved_text is not None:
            _check_source(str(indexed.path_prefix), int(self.reader.lengths.sum()), rules.moved_text)

    def sample(self, index: int) -> Sample:
        """Sample `index`."""
        key = self.order.draw_key(index)
        if self.rules.moved_text is not None:
            tokens, labels = self.moved(index, self.rules.moved_text)
            # Chunks that are read from several places count as one text.
            boundaries = np.array([0, self.seq_length])
            return make_sample(tokens, labels, boundaries, self.rules, key)
        window, boundaries = self.window(index)
        ends = self._ends_a_document(index)
        return make_sample(window[:-1], window[1:], boundaries, self.rules, key, ends_document=ends)

    def window(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The S + 1 tokens of sample `index`, and where its documents begin and end within the first S."""
        epoch, start = self.order.locate(index)
        end = start + self.seq_length + 1
        first = int(np.searchsorted(epoch.starts, start, side="right")) - 1
        last = int(np.searchsorted(epoch.starts, end, side="left"))
        inner = epoch.starts[first : last + 1].clip(start, end - 1) - start
        # unique: empty documents have no extent, and a boundary after the S-th token is no boundary.
        return self._tokens(epoch, start, end), np.unique(inner)

    def _ends_a_document(self, index: int) -> bool:
        """Whether the last token of sample `index` is the last of its document."""
        epoch, start = self.order.locate(index)
        end = start + self.seq_length
        return bool(epoch.starts[np.searchsorted(epoch.starts, end)] == end)

    def moved(self, index: int, spec: PoseSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens [S] and labels [S] of sample `index`, its chunks read where `spec` draws them.

        The label of a chunk's last token is the token that follows it in the text.
        """
        epoch, start = self.order.locate(index)
        reach = self._reach(epoch, start, spec)
        chunks = draw_chunks(spec, self.seq_length, generator(self.order.draw_key(index)), reach)
        begins = start + chunks.starts_N + chunks.offsets_N
        texts = [self._tokens(epoch, a, a + n + 1) for a, n in zip(begins, chunks.lengths_N, strict=True)]
        tokens, labels = [text[:-1] for text in texts], [text[1:] for text in texts]
        return np.concatenate(tokens), np.concatenate(labels)

    def _reach(self, epoch: Epoch, start: int, spec: PoseSpec) -> int:
        """Tokens from `start` on that a sample's chunks may be read from (L_x)."""
        if spec.content_offset == "aligned":
            return spec.target_window
        end = int(epoch.starts[np.searchsorted(epoch.starts, start, side="right")])
        most = _RELEASED_REACH * self.seq_length if spec.sampler == "released" else spec.target_window
        # The last label, too, shall be of this document; a document that ends sooner leaves nothing to move.
        return max(self.seq_length, min(most, end - 1 - start))

    def _tokens(self, epoch: Epoch, start: int, end: int) -> NDArray[np.int64]:
        """Tokens [start, end) of an epoch's stream, which begins again where it ends."""
        total = int(epoch.starts[-1])
        if start >= total:
            return self._tokens(epoch, start - total, end - total)
        if end > total:
            parts = (self._tokens(epoch, start, total), self._tokens(epoch, 0, end - total))
            return np.concatenate(parts)
        first = int(np.searchsorted(epoch.starts, start, side="right")) - 1
        last = int(np.searchsorted(epoch.starts, end, side="left"))
        texts = []
        for place in range(first, last):
            begin = int(epoch.starts[place])
            skipped, stop = max(start - begin, 0), min(end, int(epoch.starts[place + 1])) - begin
            texts.append(self.reader.read(int(epoch.documents[place]), skipped, stop - skipped))
        return np.concatenate(texts)


def _check_source(name: str, total: int, spec: PoseSpec) -> None:
    if spec.content_offset == "aligned" and total <= spec.target_window:
        raise DataError(
            name,
            required=f"more than {spec.target_window} tokens (the target window) in this split, for "
            "model.data.pose.content_offset: aligned",
            given=plural(total, "token"),
            fix="add text, or model.data.pose.content_offset=uniform",
        )


def make_sample(
    tokens: NDArray[np.int64],
    labels: NDArray[np.int64],
    boundaries: NDArray[np.int64],
    rules: SampleRules,
    key: Key,
    *,
    ends_document: bool = False,
) -> Sample:
    """Turn text that runs through documents into a sample.

    Args:
        tokens: [S] token ids.
        labels: [S] the token that follows each.
        boundaries: [num_docs + 1] offsets of documents within the tokens: first 0, last S.
        rules: see `SampleRules`.
        key: decides random positions.
        ends_document: the last token is its document's last, so that its label begins the next document.
    """
    loss_mask = np.ones(len(tokens), dtype=np.float32)
    attended = boundaries[[0, -1]]
    if rules.reset_attention_mask:
        attended = boundaries
        # The label there begins a document that these tokens do not belong to.
        loss_mask[boundaries[1:-1] - 1] = 0.0
        if ends_document:
            loss_mask[-1] = 0.0
    return as_sample(tokens, labels, loss_mask, rules.positions(boundaries, key), attended, rules)


def as_sample(
    tokens: NDArray[np.int64],
    labels: NDArray[np.int64],
    loss_mask: NDArray[np.float32],
    positions: NDArray[np.int64],
    attended: NDArray[np.int64],
    rules: SampleRules,
) -> Sample:
    """Tensors of a sample, from arrays [S] and the boundaries that attention is confined by."""
    if rules.eod_mask_loss:
        loss_mask = np.where(tokens == rules.eod_id, np.float32(0.0), loss_mask)
    seq_length = len(tokens)
    # Of one size, so that samples can be stacked: what is left over are empty documents at the end.
    cu_seqlens = np.full(seq_length + 1, seq_length, dtype=np.int32)
    cu_seqlens[: len(attended)] = attended
    return {
        # Copied: tokens and labels may be views of one window, which share all but one token.
        "tokens": torch.from_numpy(tokens.copy()),
        "labels": torch.from_numpy(labels.copy()),
        "loss_mask": torch.from_numpy(loss_mask),
        "position_ids": torch.from_numpy(positions),
        "cu_seqlens": torch.from_numpy(cu_seqlens),
    }
