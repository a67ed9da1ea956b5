"""Counting distances, against counting every pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.data.coverage import Coverage, coverage
from nemo_pi.data.order import EpochOrder, generator
from nemo_pi.data.pose_sampler import draw_chunks
from nemo_pi.rope.pose_spec import SAMPLERS, PoseSpec

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)

KEY = (5, 0, 0)


@SLOW_MACHINE
@given(
    st.sampled_from(sorted(SAMPLERS)),
    st.integers(1, 20),
    st.integers(1, 60),
    st.integers(2, 5),
    st.integers(1, 4),
)
def test_against_every_pair(sampler: str, length: int, beyond: int, chunks: int, samples: int) -> None:
    spec = PoseSpec(length + beyond, sampler, 2 if sampler == "released" else chunks, "zero")
    found = coverage(spec, training_length=length, original_window=length, num_samples=samples, key=KEY)
    naive = np.zeros(spec.target_window, dtype=int)
    order = EpochOrder(np.array([1000]), 10, KEY)
    for sample in range(samples):
        positions = draw_chunks(spec, length, generator(order.draw_key(sample))).positions().tolist()
        for query in positions:
            for key in positions:
                if key <= query:
                    naive[query - key] += 1
    assert found.pairs.tolist() == naive.tolist()


def test_figures_by_hand() -> None:
    """Distances 1 to 7; the original window of 4 never had 4 to 7."""
    found = Coverage(np.array([9, 4, 2, 0, 1, 0, 3, 0]), original_window=4, num_samples=1)
    assert found.seen == pytest.approx(4 / 7)
    assert found.seen_beyond == pytest.approx(2 / 4)
    assert found.share_beyond == pytest.approx(4 / 10)
    assert found.quantiles((0.0, 0.5, 1.0)) == [0, 1, 4]


def test_progress_is_told() -> None:
    told: list[int] = []
    spec = PoseSpec(40, "contiguous", 2, "zero")
    coverage(spec, training_length=8, original_window=8, num_samples=3, key=KEY, progress=told.append)
    assert told == [1, 2, 3]


def test_the_probability_of_each_distance_is_the_papers() -> None:
    """Figure 6's listing for two chunks, counted exactly: a distance occurs in a sample, or not.

    From the original window on it occurs where the second chunk's skip lies within L_c − 1 below it,
    whatever the chunks' lengths.
    """
    original, target, samples = 8, 24, 4000
    spec = PoseSpec(target, "paper", 2, "zero")
    seen = np.zeros(target)
    for place in range(samples):
        one = coverage(spec, training_length=original, original_window=original, num_samples=1, key=(place,))
        seen += one.pairs > 0
    skips = np.arange(target - original + 1)
    for distance in range(original, target):
        probability = np.mean((skips < distance) & (distance < skips + original))
        assert abs(seen[distance] / samples - probability) < 5 * (0.25 / samples) ** 0.5
