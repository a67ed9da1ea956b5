"""Positions from boundaries, against megatron-core's own and a loop."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids

from nemo_pi.data.positions import PlainPositions

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

EOD = 0


@settings(SLOW_MACHINE)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 5))
def test_positions_against_a_loop(lengths: list[int], index: int) -> None:
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    restarted = [place for length in lengths for place in range(length)]
    assert PlainPositions(reset=True)(boundaries, index).tolist() == restarted
    assert PlainPositions()(boundaries, index).tolist() == list(range(sum(lengths)))


@settings(SLOW_MACHINE)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_positions_against_megatron(ends: list[bool]) -> None:
    tokens = torch.tensor([EOD if end else 1 for end in ends])
    inner = [i + 1 for i, end in enumerate(ends[:-1]) if end]
    boundaries = np.array([0, *inner, len(ends)])
    for reset in (False, True):
        theirs = _get_ltor_masks_and_position_ids(tokens, EOD, reset, False, False, False)[2]
        ours = PlainPositions(reset)(boundaries, 0)
        assert ours.dtype == np.int64 and ours.tolist() == theirs.tolist()
