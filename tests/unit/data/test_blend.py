"""Blending: error feedback against a plain loop, prefix property, shares kept at every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_pi.data.blend import BlendedDataset, blend_indices
from nemo_pi.data.indexed import open_indexed
from nemo_pi.data.samples import SampleDataset, SampleRules

# No limits on time: a busy machine is no failure.
SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

weights_of = st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(lambda w: [x / sum(w) for x in w])


def naive(weights: Sequence[float], num_samples: int) -> tuple[list[int], list[int]]:
    counts = [0] * len(weights)
    corpora, numbers = [], []
    for i in range(num_samples):
        lags = [weight * max(i, 1) - count for weight, count in zip(weights, counts, strict=True)]
        chosen = lags.index(max(lags))
        corpora.append(chosen)
        numbers.append(counts[chosen])
        counts[chosen] += 1
    return corpora, numbers


@settings(SLOW_MACHINE)
@given(weights_of, st.integers(0, 200))
def test_error_feedback_against_a_loop(weights: list[float], num_samples: int) -> None:
    corpus, number = blend_indices(weights, num_samples)
    assert (corpus.tolist(), number.tolist()) == naive(weights, num_samples)


@settings(SLOW_MACHINE)
@given(weights_of, st.integers(1, 300))
def test_shares_hold_after_any_number_of_samples(weights: list[float], num_samples: int) -> None:
    corpus, _ = blend_indices(weights, num_samples)
    for c, weight in enumerate(weights):
        counts = np.cumsum(corpus == c)
        assert np.abs(counts - weight * np.arange(1, num_samples + 1)).max() <= len(weights)


@settings(SLOW_MACHINE)
@given(weights_of, st.integers(0, 100), st.integers(0, 100))
def test_longer_runs_keep_the_order(weights: list[float], short: int, more: int) -> None:
    a, b = blend_indices(weights, short), blend_indices(weights, short + more)
    assert np.array_equal(a[0], b[0][:short]) and np.array_equal(a[1], b[1][:short])


@pytest.fixture
def parts(numbered: Callable[[Sequence[int]], str]) -> list[SampleDataset]:
    return [
        SampleDataset(open_indexed(numbered([n])), (0, 1), seq_length=4, key=(0, 0, c), rules=SampleRules())
        for c, n in enumerate((21, 41))
    ]


def test_samples_come_from_their_corpora(parts: list[SampleDataset]) -> None:
    blended = BlendedDataset(parts, [0.25, 0.75], 40)
    corpora, numbers = naive([0.25, 0.75], 40)
    for i in range(40):
        assert blended.locate(i) == (corpora[i], numbers[i])
        assert blended[i]["tokens"].tolist() == parts[corpora[i]][numbers[i]]["tokens"].tolist()
    assert len(blended) == 40


def test_indices_outside_are_refused(parts: list[SampleDataset]) -> None:
    for blended in (BlendedDataset(parts, [0.5, 0.5], 7), BlendedDataset(parts[:1], [1.0], 7)):
        assert len(list(blended)) == 7
        for index in (-1, 7):
            with pytest.raises(IndexError):
                blended[index]
