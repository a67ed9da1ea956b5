"""Plain numbers of a layout."""

from __future__ import annotations

import pytest

from nemo_pi.parallel.layout import ParallelLayout


def test_one_rank_by_default() -> None:
    layout = ParallelLayout()
    assert (layout.model_ranks, layout.world_size, layout.layers_per_chunk(6)) == (1, 1, 6)


def test_ranks_multiply() -> None:
    layout = ParallelLayout(tp=2, pp=3, cp=5, dp=7)
    assert (layout.model_ranks, layout.world_size) == (30, 210)


@pytest.mark.parametrize(("pp", "vpp", "layers"), [(1, None, 24), (4, None, 6), (2, 3, 4), (4, 2, 3)])
def test_layers_are_dealt_out(pp: int, vpp: int | None, layers: int) -> None:
    assert ParallelLayout(pp=pp, vpp=vpp).layers_per_chunk(24) == layers


@pytest.mark.parametrize(
    ("layout", "multiple"),
    [
        (ParallelLayout(tp=2, pp=2, dp=3), 1),
        (ParallelLayout(cp=3), 6),
        (ParallelLayout(tp=2, sequence_parallel=True), 2),
        (ParallelLayout(tp=3, cp=2, sequence_parallel=True), 12),
    ],
)
def test_rows_that_ranks_can_share(layout: ParallelLayout, multiple: int) -> None:
    assert layout.sequence_multiple == multiple


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        (ParallelLayout(), "TP 1 · PP 1 · CP 1 · DP 1 (1 rank)"),
        (ParallelLayout(tp=2, pp=2), "TP 2 · PP 2 · CP 1 · DP 1 (4 ranks)"),
        (
            ParallelLayout(tp=2, pp=2, vpp=3, cp=4, dp=8, sequence_parallel=True),
            "TP 2 · PP 2 (interleaved, 3 chunks a rank) · CP 4 · DP 8 · sequence parallel (128 ranks)",
        ),
        (
            ParallelLayout(cp=2, cp_comm_type="all_gather"),
            "TP 1 · PP 1 · CP 2 (all_gather) · DP 1 (2 ranks)",
        ),
    ],
)
def test_describes_itself(layout: ParallelLayout, line: str) -> None:
    assert layout.describe() == line
