"""Fixed-length samples from an indexed corpus, each with its positions and document boundaries."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from nemo_pi.data.order import EpochOrder
from nemo_pi.data.positions import PlainPositions, PositionMaker

Sample = dict[str, Tensor]
"""tokens, labels, position_ids int64[S]; loss_mask float32[S]; cu_seqlens int32[S+1], padded with S."""


@dataclass(frozen=True)
class SampleRules:
    """How a window of S + 1 tokens becomes a sample."""

    positions: PositionMaker = field(default_factory=PlainPositions)
    """Makes ``position_ids``."""
    reset_attention_mask: bool = False
    """Mark every document in ``cu_seqlens``, and mask the label that would cross into the next one.
    False: the sample is one stretch, as GPT training concatenates."""
    eod_mask_loss: bool = False
    """No loss where the input token is the end of a document. False: loss everywhere."""
    eod_id: int | None = None
    """The end-of-document id; needed by `eod_mask_loss` only."""


class SampleDataset(Dataset[Sample]):
    """Endless, shuffled samples of S tokens from some documents of one corpus.

    Sample i is a function of (key, i) alone. Indices beyond the first epoch go on in the next.

    Args:
        indexed: corpus, opened and checked by `nemo_pi.data.indexed.open_indexed`.
        documents: [first, last) documents of the corpus to read.
        seq_length: S.
        key: non-negative integers naming the stream: (seed, split, corpus).
        rules: how a window becomes a sample.
    """

    def __init__(
        self,
        indexed: IndexedDataset,
        documents: tuple[int, int],
        *,
        seq_length: int,
        key: tuple[int, ...],
        rules: SampleRules,
    ) -> None:
        self.indexed, self.seq_length, self.rules = indexed, seq_length, rules
        token_starts = np.concatenate([[0], np.cumsum(indexed.sequence_lengths, dtype=np.int64)])
        marks = token_starts[indexed.document_indices[documents[0] : documents[1] + 1]]
        self._first_token = marks[:-1]
        self.order = EpochOrder(np.diff(marks), seq_length, key, name=str(indexed.path_prefix))

    @property
    def samples_per_epoch(self) -> int:
        """Number of samples in one pass over the documents."""
        return self.order.samples_per_epoch

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, index)

    def sample(self, index: int, global_index: int) -> Sample:
        """Sample `index` of this corpus, which is sample `global_index` of the blend."""
        window, boundaries = self.window(index)
        return make_sample(window, boundaries, self.rules, global_index)

    def window(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The S + 1 tokens of sample `index`, and where its documents begin and end within the first S."""
        epoch, start = self.order.locate(index)
        end = start + self.seq_length + 1
        first = int(np.searchsorted(epoch.starts, start, side="right")) - 1
        last = int(np.searchsorted(epoch.starts, end, side="left"))
        pieces = []
        for place in range(first, last):
            begin = max(start, int(epoch.starts[place]))
            stop = min(end, int(epoch.starts[place + 1]))
            offset = int(self._first_token[epoch.documents[place]]) + begin - int(epoch.starts[place])
            pieces.append(self._read(offset, stop - begin))
        inner = epoch.starts[first : last + 1].clip(start, end - 1) - start
        # unique: empty documents have no extent, and a boundary after the S-th token is no boundary.
        return np.concatenate(pieces), np.unique(inner)

    def _read(self, offset: int, count: int) -> NDArray[np.int64]:
        dtype = self.indexed.index.dtype
        raw = self.indexed.bin_reader.read(dtype=dtype, count=count, offset=offset * np.dtype(dtype).itemsize)
        return np.asarray(raw, dtype=np.int64)


def make_sample(
    window: NDArray[np.int64], boundaries: NDArray[np.int64], rules: SampleRules, index: int = 0
) -> Sample:
    """Turn a window of S + 1 tokens into a sample.

    Args:
        window: [S + 1] token ids.
        boundaries: [num_docs + 1] offsets within the first S tokens: first 0, last S.
        rules: see `SampleRules`.
        index: the sample's number, for makers of random positions.
    """
    tokens, seq_length = window[:-1], len(window) - 1
    loss_mask = np.ones(seq_length, dtype=np.float32)
    attended = np.array([0, seq_length])
    if rules.reset_attention_mask:
        attended = boundaries
        loss_mask[boundaries[1:-1] - 1] = 0.0
    if rules.eod_mask_loss:
        loss_mask[tokens == rules.eod_id] = 0.0
    cu_seqlens = np.full(seq_length + 1, seq_length, dtype=np.int32)
    cu_seqlens[: len(attended)] = attended
    return {
        "tokens": torch.from_numpy(tokens.copy()),
        "labels": torch.from_numpy(window[1:].copy()),
        "loss_mask": torch.from_numpy(loss_mask),
        "position_ids": torch.from_numpy(rules.positions(boundaries, index)),
        "cu_seqlens": torch.from_numpy(cu_seqlens),
    }
