"""Which relative distances PoSE's samples hold, and how often, counted without training.

A pair is a token and one before it in the same sample: what attention relates. Its distance is the
difference of their positions; a target window of L_t tokens has the distances 1 … L_t − 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nemo_pi.data.order import Key, generator, sample_key
from nemo_pi.data.pose_sampler import Chunks, draw_chunks
from nemo_pi.rope.pose_spec import PoseSpec

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Coverage:
    """How often each distance occurs in some samples."""

    pairs: Ints
    """Pairs at each distance, [L_t]; entry 0 counts tokens with themselves."""
    original_window: int
    """Distances from here on were never met in pretraining."""
    num_samples: int
    """Samples counted."""

    @property
    def seen(self) -> float:
        """Share of the distances 1 … L_t − 1 that occur at least once."""
        return float((self.pairs[1:] > 0).mean())

    @property
    def seen_beyond(self) -> float:
        """The same from the original window on."""
        return float((self.pairs[self.original_window :] > 0).mean())

    @property
    def share_beyond(self) -> float:
        """Share of all pairs whose distance is the original window or more."""
        return float(self.pairs[self.original_window :].sum() / self.pairs[1:].sum())

    def quantiles(self, points: tuple[float, ...] = (0.0, 0.05, 0.5, 0.95)) -> list[int]:
        """Pairs at the rarest distance, at the 5% rarest, the median and the 5% most frequent."""
        return [int(value) for value in np.quantile(self.pairs[1:], points, method="lower")]


def coverage(
    spec: PoseSpec,
    *,
    training_length: int,
    original_window: int,
    num_samples: int,
    key: Key,
    progress: Callable[[int], None] = lambda done: None,
) -> Coverage:
    """Draws the first samples of an epoch as training draws them, and counts.

    Args:
        spec: how they are drawn.
        training_length: tokens of a sample.
        original_window: tokens of the pretrained window, below the target.
        num_samples: how many; steps × global batch size for a whole run.
        key: (seed, split, corpus) of the stream.
        progress: called with the number of samples that are done.
    """
    count = _Spectra(spec.target_window) if spec.sampler == "random" else _Trapezoids(spec.target_window)
    for place in range(num_samples):
        count.add(draw_chunks(spec, training_length, generator(sample_key(key, 0, place))))
        progress(place + 1)
    return Coverage(count.pairs(), original_window, num_samples)


class _Trapezoids:
    """Counts by what a few chunks have in common: the work is N² a sample, whatever their length.

    Chunks of lengths a and b give distances whose counts rise by one over a, stay, and fall by one: the
    second difference of that is four numbers.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._second = np.zeros(target + 2, dtype=np.int64)

    def add(self, chunks: Chunks) -> None:
        """Adds one sample."""
        first_N, lengths_N = chunks.starts_N + chunks.skips_N, chunks.lengths_N
        i, j = np.triu_indices(len(lengths_N), k=1)
        # From the first token of the later chunk back to the last of the earlier one.
        nearest = first_N[j] - first_N[i] - lengths_N[i] + 1
        ends = (
            nearest,
            nearest + lengths_N[i],
            nearest + lengths_N[j],
            nearest + lengths_N[i] + lengths_N[j],
        )
        for place, change in zip(ends, (1, -1, -1, 1), strict=True):
            # Not +=, which would add once where several pairs of chunks change at one distance.
            np.add.at(self._second, place, change)
        # Within a chunk: l pairs at distance 0, and one less at each further.
        self._second[0] += lengths_N.sum()
        self._second[1] -= lengths_N.sum() + len(lengths_N)
        np.add.at(self._second, lengths_N + 1, 1)

    def pairs(self) -> Ints:
        """Pairs at each distance."""
        # Summed twice, the second difference gives the counts themselves.
        return np.cumsum(np.cumsum(self._second))[: self._target]


class _Spectra:
    """Counts by the autocorrelation of the positions taken: the work is that of one Fourier transform."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._power = np.zeros(target + 1)

    def add(self, chunks: Chunks) -> None:
        """Adds one sample."""
        # Twice the window: the correlation is circular, and distances must not wrap around.
        taken = np.zeros(2 * self._target)
        taken[chunks.positions()] = 1.0
        self._power += np.abs(np.fft.rfft(taken)) ** 2

    def pairs(self) -> Ints:
        """Pairs at each distance."""
        # Counts are whole numbers: what else there is comes from the transform's rounding.
        return np.rint(np.fft.irfft(self._power)[: self._target]).astype(np.int64)
