"""PoSE's draws: their definitions as loops, their distributions, and numbers that never change."""

from __future__ import annotations

import itertools
import multiprocessing
import random as stdlib_random
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.data.order import generator
from nemo_pi.data.pose_sampler import Chunks, draw_chunks
from nemo_pi.rope.pose_spec import SAMPLERS, PoseSpec

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SPECS = [(sampler, offset) for sampler, offsets in SAMPLERS.items() for offset in offsets]


def naive_chunks(spec: PoseSpec, length: int, source: int, random: stdlib_random.Random) -> list[list[int]]:
    """Lengths, skips and offsets by the definitions, with Python's own random numbers."""
    room = spec.target_window - length
    if spec.sampler == "random":
        places = sorted(random.sample(range(spec.target_window), length))
        return [[1] * length, [place - i for i, place in enumerate(places)], [0] * length]
    if spec.sampler == "released":
        first = random.randint(1, (length + 1) // 2)
        end = random.randint(length, source)
        return [[first, length - first], [0, random.randint(0, room)], [0, end - length]]
    lengths: list[int] = []
    for i in range(spec.num_chunks - 1):
        if spec.sampler == "paper":
            lengths.append(random.randint(1, length - sum(lengths) - (spec.num_chunks - 1 - i)))
        else:
            lengths.append((i + 1) * length // spec.num_chunks - sum(lengths))
    lengths.append(length - sum(lengths))
    if spec.sampler == "contiguous":
        skips = [0, *sorted(random.randint(0, room) for _ in lengths[1:])]
        return [lengths, skips, [0] * len(lengths)]
    skips, offsets = [0], [0]
    for _ in lengths[1:]:
        skips.append(random.randint(skips[-1], room))
        offsets.append(random.randint(offsets[-1], source - length))
    return [
        lengths,
        skips,
        {"uniform": offsets, "zero": [0] * len(skips), "aligned": skips}[spec.content_offset],
    ]


def as_lists(chunks: Chunks) -> list[list[int]]:
    return [chunks.lengths_N.tolist(), chunks.skips_N.tolist(), chunks.offsets_N.tolist()]


@SLOW_MACHINE
@given(
    st.sampled_from(SPECS),
    st.integers(1, 40),
    st.integers(1, 500),
    st.integers(0, 100),
    st.integers(2, 6),
    st.integers(0, 2**31),
)
def test_what_every_draw_keeps_to(
    how: tuple[str, str], length: int, beyond: int, more_text: int, num_chunks: int, seed: int
) -> None:
    sampler, offset = how
    spec = PoseSpec(length + beyond, sampler, 2 if sampler == "released" else num_chunks, offset)
    chunks = draw_chunks(spec, length, generator((seed,)), length + more_text)
    positions = chunks.positions()
    assert positions.dtype == np.int64 and len(positions) == length, "exactly the training length"
    assert positions[0] >= 0 and positions[-1] < spec.target_window
    assert (np.diff(positions) > 0).all(), "no position twice"
    assert (chunks.lengths_N >= 1).all()
    wanted = length if sampler == "random" else min(spec.num_chunks, length)
    assert len(chunks.lengths_N) == len(chunks.skips_N) == len(chunks.offsets_N) == wanted
    if sampler != "random":
        assert positions[0] == 0 and chunks.offsets_N[0] == 0
    assert (np.diff(chunks.skips_N) >= 0).all() and (np.diff(chunks.offsets_N) >= 0).all()
    if offset == "uniform":
        assert chunks.offsets_N[-1] <= more_text
    assert chunks.starts_N.tolist() == [0, *np.cumsum(chunks.lengths_N)[:-1]]


@pytest.mark.parametrize(("sampler", "offset"), SPECS)
@pytest.mark.parametrize("num_chunks", [2, 3])
def test_every_outcome_as_often_as_in_the_definition(sampler: str, offset: str, num_chunks: int) -> None:
    """Small enough to count every outcome: 5 tokens, 3 positions and 2 tokens of text to spare."""
    if sampler == "released" and num_chunks != 2:
        return
    spec, draws = PoseSpec(8, sampler, num_chunks, offset), 12_000
    theirs = stdlib_random.Random(0)
    ours: Counter[str] = Counter()
    naive: Counter[str] = Counter()
    random = generator((17,))
    for _ in range(draws):
        ours[str(as_lists(draw_chunks(spec, 5, random, 7)))] += 1
        naive[str(naive_chunks(spec, 5, 7, theirs))] += 1
    for outcome in ours.keys() | naive.keys():
        # The difference of two counts near c has a deviation of √(2c).
        mean = (ours[outcome] + naive[outcome]) / 2
        assert abs(ours[outcome] - naive[outcome]) < 5.5 * (2 * mean) ** 0.5 + 1, outcome


def test_two_chunks_by_hand() -> None:
    chunks = Chunks(np.array([3, 2]), np.array([0, 10]), np.array([0, 4]))
    assert chunks.positions().tolist() == [0, 1, 2, 13, 14]
    assert chunks.starts_N.tolist() == [0, 3]


def test_numbers_never_change() -> None:
    """Resumed runs rely on these very numbers."""
    key = (1234, 0, 0, 1, 7, 2)

    def drawn(*spec: object) -> list[list[int]]:
        return as_lists(draw_chunks(PoseSpec(4096, *spec), 512, generator(key), 2000))  # type: ignore[arg-type]

    assert drawn("paper", 2, "uniform") == FROZEN["paper"]
    assert drawn("paper", 2, "zero")[:2] == FROZEN["paper"][:2]
    assert drawn("paper", 3, "aligned") == FROZEN["aligned"]
    assert drawn("released", 2, "uniform") == FROZEN["released"]
    assert drawn("contiguous", 3, "zero") == FROZEN["contiguous"]
    positions = draw_chunks(PoseSpec(10**6, "random", 2, "zero"), 512, generator(key)).positions()
    assert [positions[[0, 1, 255, -1]].tolist()] == FROZEN["random"]


FROZEN: dict[str, list[list[int]]] = {
    "paper": [[94, 418], [0, 3571], [0, 59]],
    "aligned": [[94, 60, 358], [0, 3526, 3558], [0, 3526, 3558]],
    "released": [[94, 418], [0, 3571], [0, 59]],
    "contiguous": [[170, 171, 171], [0, 2653, 3571], [0, 0, 0]],
    "random": [[1527, 6442, 465864, 998368]],
}


def test_keys_draw_apart() -> None:
    """Another seed, epoch or sample: other chunks."""
    spec = PoseSpec(10**6, "paper")
    keys = list(itertools.product(range(3), [0], range(2), range(4), range(20), [2]))
    drawn = {str(as_lists(draw_chunks(spec, 4096, generator(key), 100_000))) for key in keys}
    assert len(drawn) == len(keys)


def _positions(key: tuple[int, ...]) -> list[list[int]]:
    return [
        draw_chunks(PoseSpec(10**5, sampler, 2, offset), 64, generator(key)).positions().tolist()
        for sampler, offset in SPECS
    ]


def test_other_processes_draw_the_same() -> None:
    keys = [(5, 0, 0, epoch, place, 2) for epoch in range(2) for place in range(3)]
    here = [_positions(key) for key in keys]
    np.random.seed(99)  # whatever the process has done before
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_positions, keys) == here


def test_skips_are_even() -> None:
    """u_1 takes each of its values equally often: 11,000 draws of 11, 1,000 each, deviation about 30."""
    random = generator((2,))
    for sampler in ("paper", "released", "contiguous"):
        spec = PoseSpec(30, sampler, 2, SAMPLERS[sampler][0])
        skips = [int(draw_chunks(spec, 20, random).skips_N[1]) for _ in range(11_000)]
        assert np.abs(np.bincount(skips, minlength=11) - 1000).max() < 5 * 30


def test_random_positions_are_even() -> None:
    """Each position of the target is taken equally often, whether by permutation or by rejection."""
    for target, length, draws in ((12, 6, 2000), (60, 6, 10_000)):
        spec, random = PoseSpec(target, "random", 2, "zero"), generator((3,))
        taken = np.zeros(target)
        for _ in range(draws):
            taken[draw_chunks(spec, length, random).positions()] += 1
        expected = draws * length / target
        assert np.abs(taken - expected).max() < 5 * expected**0.5


def test_contiguous_chunks_are_of_equal_length() -> None:
    chunks = draw_chunks(PoseSpec(100, "contiguous", 4, "zero"), 30, generator((0,)))
    assert chunks.lengths_N.tolist() == [7, 8, 7, 8]


def test_the_work_does_not_grow_with_the_target() -> None:
    """From 4,096 to 10⁹ positions: a permutation of them would take minutes and gigabytes."""
    for sampler, offset in SPECS:
        started = time.perf_counter()
        positions = draw_chunks(PoseSpec(10**9, sampler, 2, offset), 512, generator((1,))).positions()
        assert time.perf_counter() - started < 5
        assert positions[-1] > 512


def test_chunks_of_one_token_are_drawn_from_short_documents() -> None:
    for (sampler, offset), length in zip(SPECS, (1, 2, 3, 1, 2, 1), strict=True):
        spec = PoseSpec(50, sampler, 2 if sampler == "released" else 3, offset)
        chunks = draw_chunks(spec, length, generator((4,)))
        assert chunks.lengths_N.sum() == length
        assert all(a < b for a, b in pairwise(chunks.positions().tolist()))
