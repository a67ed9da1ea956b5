"""How a sample's positions are made from its document boundaries.

Positions are data: the model reads whatever stands in ``position_ids``. A maker of positions is a
function of the boundaries and of the sample's own key, so that random positions too are a pure function of
(seed, epoch, sample): the same on every rank and in a resumed run.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nemo_pi.data.order import Key, generator
from nemo_pi.data.pose_sampler import draw_chunks
from nemo_pi.rope.pose_spec import PoseSpec
from nemo_pi.rope.positions import positions_within


class PositionMaker(Protocol):
    """Makes the positions of one sample."""

    def __call__(self, boundaries: NDArray[np.int64], key: Key) -> NDArray[np.int64]:
        """Positions [S] of one sample.

        Args:
            boundaries: [num_docs + 1] offsets of the documents in the sample: first 0, last S, rising.
            key: decides what is drawn; `nemo_pi.data.order.PerEpoch.draw_key` gives each sample its own.
        """


class PlainPositions:
    """Positions 0, 1, 2, … over the sample, or over each document of it.

    Args:
        reset: begin again at 0 with every document (``data.reset_position_ids``).
    """

    def __init__(self, reset: bool = False) -> None:
        self.reset = reset

    def __call__(self, boundaries: NDArray[np.int64], key: Key) -> NDArray[np.int64]:
        """Positions [S]; `key` plays no part."""
        segments = boundaries if self.reset else boundaries[[0, -1]]
        return positions_within(torch.from_numpy(segments)).numpy()


class PosePositions:
    """Positions that skip through the target window.

    Args:
        spec: how they are drawn.
        reset: every document draws its own, beginning anew.
    """

    def __init__(self, spec: PoseSpec, reset: bool = False) -> None:
        self.spec, self.reset = spec, reset

    def __call__(self, boundaries: NDArray[np.int64], key: Key) -> NDArray[np.int64]:
        """Positions [S], each below the target window."""
        lengths = np.diff(boundaries) if self.reset else boundaries[-1:]
        random = generator(key)
        parts = [draw_chunks(self.spec, int(length), random).positions() for length in lengths]
        return np.concatenate(parts)
