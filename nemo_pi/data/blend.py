"""Blends of corpora: which corpus gives sample i, decided by error feedback as in Megatron."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from nemo_pi.data.samples import Sample, SampleStream


def blend_indices(weights: Sequence[float], num_samples: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Corpus number and sample number within it, for each of `num_samples` samples.

    At each step the corpus that lags furthest behind its share is taken, so that after any number of
    samples every corpus is within one sample or so of its share. The first n entries do not depend on
    `num_samples`: a run made longer keeps its order.

    Args:
        weights: shares that add up to 1.
        num_samples: how many to lay out.
    """
    # Imported here: Megatron imports slowly, and one corpus needs no blend.
    from megatron.core.datasets import helpers

    # The compiled helper writes into arrays of just these types; its last argument would make it print.
    corpus = np.zeros(num_samples, dtype=np.int16)
    number = np.zeros(num_samples, dtype=np.int64)
    shares = np.asarray(weights, dtype=np.float64)
    helpers.build_blending_indices(corpus, number, shares, len(shares), num_samples, False)
    return corpus, number


class BlendedDataset(Dataset[Sample]):
    """Samples 0 … num_samples - 1 of a blend; sample i depends on i, the streams' keys and the weights.

    Args:
        parts: one stream per corpus.
        weights: their shares, adding up to 1.
        num_samples: how many samples the run may consume.
    """

    def __init__(self, parts: Sequence[SampleStream], weights: Sequence[float], num_samples: int) -> None:
        self.parts, self.weights, self.num_samples = tuple(parts), tuple(weights), num_samples
        self._indices: tuple[NDArray[np.int16], NDArray[np.int64]] | None = None
        if len(self.parts) > 1:
            self._indices = blend_indices(weights, num_samples)

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Sample:
        corpus, number = self.locate(index)
        return self.parts[corpus].sample(number)

    def locate(self, index: int) -> tuple[int, int]:
        """Corpus, and sample number within it, of sample `index`."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        if self._indices is None:
            return 0, index
        return int(self._indices[0][index]), int(self._indices[1][index])
