"""The sampler: every layout sees the same global batches, and resuming goes on where it stopped."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.data.sampler import ConsecutiveSampler
from nemo_pi.errors import ConfigError

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_literal_layout() -> None:
    # 2 ranks, micro-batches of 2, global batches of 8: two micro-batches per rank and step.
    ranks = [list(ConsecutiveSampler(21, 0, 2, rank, 2, 8)) for rank in (0, 1)]
    assert ranks[0] == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert ranks[1] == [[2, 3], [6, 7], [10, 11], [14, 15]]


@settings(SLOW_MACHINE)
@given(st.integers(0, 200), st.integers(0, 100), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_ranks_together_read_each_global_batch_once(
    total: int, consumed: int, micro: int, dp_size: int, accumulate: int
) -> None:
    size = micro * dp_size * accumulate
    samplers = [ConsecutiveSampler(total, consumed, micro, rank, dp_size, size) for rank in range(dp_size)]
    ranks = [list(sampler) for sampler in samplers]
    steps = max(0, total - consumed) // size
    assert all(
        len(rank) == len(sampler) == steps * accumulate for rank, sampler in zip(ranks, samplers, strict=True)
    )
    for step in range(steps):
        batch = [i for rank in ranks for m in rank[step * accumulate : (step + 1) * accumulate] for i in m]
        assert sorted(batch) == list(range(consumed + step * size, consumed + (step + 1) * size))
    assert all(len(micro_batch) == micro for rank in ranks for micro_batch in rank)


@settings(SLOW_MACHINE)
@given(st.integers(0, 5), st.integers(0, 5))
def test_resuming_equals_going_on(before: int, after: int) -> None:
    whole = list(ConsecutiveSampler((before + after) * 12, 0, 2, 1, 3, 12))
    resumed = list(ConsecutiveSampler((before + after) * 12, before * 12, 2, 1, 3, 12))
    assert whole[before * 2 :] == resumed


def test_iterating_twice_gives_the_same() -> None:
    sampler = ConsecutiveSampler(40, 4, 2, 0, 2, 4)
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize(("micro", "dp_size", "global_batch"), [(2, 2, 6), (0, 1, 1), (1, 1, 0), (4, 1, 2)])
def test_uneven_global_batch_is_refused(micro: int, dp_size: int, global_batch: int) -> None:
    with pytest.raises(ConfigError, match="global_batch_size"):
        ConsecutiveSampler(100, 0, micro, 0, dp_size, global_batch)


@pytest.mark.parametrize("place", [{"total": -1}, {"consumed": -1}, {"dp_rank": 2}, {"dp_rank": -1}])
def test_a_place_that_cannot_be_is_a_fault_of_the_caller(place: dict[str, int]) -> None:
    whole = {"total": 8, "consumed": 0, "micro_batch_size": 1, "dp_rank": 0, "dp_size": 2}
    with pytest.raises(AssertionError):
        ConsecutiveSampler(**{**whole, **place}, global_batch_size=2)
