"""Positions from boundaries, against megatron-core's own and loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids

from nemo_pi.data.order import generator
from nemo_pi.data.pose_sampler import draw_chunks
from nemo_pi.data.position_ids import PlainPositions, PosePositions
from nemo_pi.rope.pose_spec import PoseSpec

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

EOD = 0


@settings(SLOW_MACHINE)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 5))
def test_positions_against_a_loop(lengths: list[int], index: int) -> None:
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    restarted = [place for length in lengths for place in range(length)]
    assert PlainPositions(reset=True)(boundaries, (index,)).tolist() == restarted
    assert PlainPositions()(boundaries, (index,)).tolist() == list(range(sum(lengths)))


@settings(SLOW_MACHINE)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_positions_against_megatron(ends: list[bool]) -> None:
    tokens = torch.tensor([EOD if end else 1 for end in ends])
    inner = [i + 1 for i, end in enumerate(ends[:-1]) if end]
    boundaries = np.array([0, *inner, len(ends)])
    for reset in (False, True):
        theirs = _get_ltor_masks_and_position_ids(tokens, EOD, reset, False, False, False)[2]
        ours = PlainPositions(reset)(boundaries, (0,))
        assert ours.dtype == np.int64 and ours.tolist() == theirs.tolist()


@settings(SLOW_MACHINE)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from(["paper", "random"]))
def test_every_document_skips_through_the_target_by_itself(lengths: list[int], sampler: str) -> None:
    spec = PoseSpec(100, sampler, content_offset="zero")
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    positions = PosePositions(spec, reset=True)(boundaries, (1, 2))
    assert positions.dtype == np.int64 and len(positions) == sum(lengths)
    random = generator((1, 2))
    for start, length in zip(boundaries, lengths, strict=False):
        alone = draw_chunks(spec, length, random).positions()
        assert positions[start : start + length].tolist() == alone.tolist()
        assert alone[0] >= 0 and (np.diff(alone) > 0).all() and alone[-1] < 100


def test_documents_of_one_row_draw_apart() -> None:
    maker = PosePositions(PoseSpec(10**6, content_offset="zero"), reset=True)
    first, second = np.split(maker(np.array([0, 50, 100]), (3,)), 2)
    assert first[0] == second[0] == 0 and (first != second).any()


def test_without_reset_the_row_is_one_sample() -> None:
    spec = PoseSpec(1000, content_offset="zero")
    boundaries = np.array([0, 3, 7, 20])
    whole = draw_chunks(spec, 20, generator((5,))).positions()
    assert PosePositions(spec)(boundaries, (5,)).tolist() == whole.tolist()
