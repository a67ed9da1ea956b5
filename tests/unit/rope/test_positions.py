"""Positions of plain text against a loop."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.rope.positions import positions_within, text_positions


@pytest.mark.parametrize("lengths", [[1], [5], [3, 1, 4], [2, 2], [0, 3, 0, 1]])
def test_each_stretch_counts_from_zero(lengths: list[int]) -> None:
    boundaries = torch.tensor([0, *lengths]).cumsum(0)
    positions = positions_within(boundaries)
    assert positions.tolist() == [place for length in lengths for place in range(length)]
    assert positions.dtype == torch.int64


def test_one_stretch() -> None:
    assert text_positions(4).tolist() == [0, 1, 2, 3]
    assert text_positions(0).tolist() == []
