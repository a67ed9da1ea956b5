"""The order of an epoch, and whatever a sample draws, as a pure function of (seed, stream, epoch, sample).

Nothing is kept on disk and nothing depends on the process: every rank, and every resumed run, computes
the same numbers. `numpy.random.RandomState` is used because its streams are frozen: a resumed run
reads the same samples under a newer numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nemo_pi.errors import DataError
from nemo_pi.units import plural

T = TypeVar("T")
Key = tuple[int, ...]
"""Non-negative integers that decide a stream of random numbers."""

# They end the keys, so that what one epoch draws for several purposes is independent.
_DOCUMENTS, _SAMPLES, _DRAWS = 0, 1, 2


def generator(key: Key) -> np.random.RandomState:
    """Random numbers decided by `key` alone."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(key)))


def permutation(length: int, key: Key) -> NDArray[np.int64]:
    """A random permutation of range(length), decided by `key` alone."""
    return generator(key).permutation(length).astype(np.int64, copy=False)


def sample_key(stream: Key, epoch: int, place: int) -> Key:
    """What decides the numbers that a sample draws for itself.

    Args:
        stream: the stream's own key (seed, split, corpus).
        epoch: from 0.
        place: the sample's place in its epoch, from 0.
    """
    return (*stream, epoch, place, _DRAWS)


class PerEpoch(ABC, Generic[T]):
    """Something made anew for each epoch of a stream of samples, from (key, epoch) alone.

    Args:
        key: names this stream (seed, split, corpus).
        samples_per_epoch: the same in every epoch.
    """

    def __init__(self, key: Key, samples_per_epoch: int) -> None:
        self.key, self.samples_per_epoch = key, samples_per_epoch
        self._cache: OrderedDict[int, T] = OrderedDict()

    @abstractmethod
    def _make(self, number: int) -> T:
        """What epoch `number` is given, from 0."""

    def epoch(self, number: int) -> T:
        """What epoch `number` is given; the last two asked for are kept in memory."""
        if number not in self._cache:
            self._cache[number] = self._make(number)
            # Two, because data-parallel neighbours and workers straddle the end of an epoch.
            while len(self._cache) > 2:
                self._cache.popitem(last=False)
        return self._cache[number]

    def draw_key(self, index: int) -> Key:
        """What decides the numbers that sample `index` draws for itself, others in every epoch."""
        return sample_key(self.key, *divmod(index, self.samples_per_epoch))

    def __getstate__(self) -> dict[str, Any]:
        # A data-loading process that is sent this object computes its own epochs.
        return {**self.__dict__, "_cache": OrderedDict()}


@dataclass(frozen=True)
class Epoch:
    """One pass over the documents."""

    documents: NDArray[np.int64]
    """Document numbers in reading order."""
    starts: NDArray[np.int64]
    """Token offset of each of `documents` in the epoch, and the total at the end: one longer."""
    samples: NDArray[np.int64]
    """Window numbers in reading order."""


class EpochOrder(PerEpoch[Epoch]):
    """Shuffled documents, laid end to end and cut into windows, and the windows shuffled; per epoch.

    Window w of an epoch holds its tokens [w·S, w·S + S + 1): the last token of a window is the first of the
    next, so that every token but the first is a label exactly once. At most S tokens at the end of an
    epoch, others in each epoch, are left over.

    Args:
        lengths: tokens of each document.
        seq_length: S, input tokens per sample.
        key: names this stream (seed, split, corpus).
        name: the corpus, for messages.
    """

    def __init__(self, lengths: NDArray[np.int64], seq_length: int, key: Key, name: str = "corpus") -> None:
        self.lengths, self.seq_length = lengths.astype(np.int64), seq_length
        total = int(self.lengths.sum())
        # A window reads S + 1 tokens for its last label, and shares one of them with its neighbour.
        super().__init__(key, (total - 1) // seq_length)
        if self.samples_per_epoch < 1:
            raise DataError(
                name,
                required=f"at least {seq_length + 1} tokens (model.encoder_seq_length + 1) in this split",
                given=f"{plural(total, 'token')} in {plural(len(self.lengths), 'document')}",
                fix="add text, give this split a larger share in model.data.splits_string, or shorten samples"
                + (f": model.encoder_seq_length={total - 1} or less" if total > 1 else ""),
            )

    def locate(self, index: int) -> tuple[Epoch, int]:
        """The epoch and the first token (offset in that epoch) of sample `index`, for any index >= 0."""
        number, place = divmod(index, self.samples_per_epoch)
        epoch = self.epoch(number)
        return epoch, int(epoch.samples[place]) * self.seq_length

    def _make(self, number: int) -> Epoch:
        documents = permutation(len(self.lengths), (*self.key, number, _DOCUMENTS))
        starts = np.concatenate([[0], np.cumsum(self.lengths[documents])])
        samples = permutation(self.samples_per_epoch, (*self.key, number, _SAMPLES))
        return Epoch(documents, starts, samples)
