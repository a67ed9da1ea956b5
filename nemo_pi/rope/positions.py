"""The positions of plain text, in one place for training samples, evaluation windows and generation."""

from __future__ import annotations

import torch
from torch import Tensor


def positions_within(boundaries: Tensor) -> Tensor:
    """Positions that count from 0 within each segment of text.

    Args:
        boundaries: whole numbers [num_segments + 1], rising offsets in tokens: first 0, last S.

    Returns:
        int64 [S].
    """
    starts = boundaries[:-1].repeat_interleave(boundaries.diff())
    return torch.arange(int(boundaries[-1])) - starts


def text_positions(length: int) -> Tensor:
    """Positions int64 [length] of one segment of text, in tokens from its beginning."""
    return positions_within(torch.tensor([0, length]))
