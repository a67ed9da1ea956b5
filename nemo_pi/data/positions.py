"""How a sample's positions are made from its document boundaries.

Positions are data: the model reads whatever stands in ``position_ids``. A maker of positions is a
function of the boundaries and of the sample's index, so that random positions too are a pure function of
the seed and of the number of consumed samples.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nemo_pi.rope.positions import positions_within


class PositionMaker(Protocol):
    """Makes the positions of one sample."""

    def __call__(self, boundaries: NDArray[np.int64], index: int) -> NDArray[np.int64]:
        """Positions [S] of the sample with number `index`.

        Args:
            boundaries: [num_docs + 1] offsets of the documents in the sample: first 0, last S, rising.
            index: the sample's number in its dataset (what is consumed), from 0.
        """


class PlainPositions:
    """Positions 0, 1, 2, … over the sample, or over each document of it.

    Args:
        reset: begin again at 0 with every document (``data.reset_position_ids``).
    """

    def __init__(self, reset: bool = False) -> None:
        self.reset = reset

    def __call__(self, boundaries: NDArray[np.int64], index: int) -> NDArray[np.int64]:
        """Positions [S]; `index` plays no part."""
        stretches = boundaries if self.reset else boundaries[[0, -1]]
        return positions_within(torch.from_numpy(stretches)).numpy()
