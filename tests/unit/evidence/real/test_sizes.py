"""The shipped size, larger and smaller ones."""

from __future__ import annotations

import pytest

from evidence.real.sizes import TARGET, WINDOW, sized
from nemo_pi.errors import ConfigError


def test_four_times_is_four_times_as_much() -> None:
    one, four = sized(1), sized(4)
    assert four.steps == 4 * one.steps and four.ruler_samples == 4 * one.ruler_samples
    assert four.needle_trials == 4 * one.needle_trials and four.short_texts == 4 * one.short_texts


@pytest.mark.parametrize("times", [0.1, 0.25, 1, 4, 100])
def test_everything_is_measured_at_any_size_and_beyond_the_model_s_window(times: float) -> None:
    size = sized(times)
    assert min(size.steps, size.books, size.short_texts, size.needle_trials, size.ruler_samples) >= 1
    within, *beyond = size.ruler_lengths
    assert within == WINDOW
    assert beyond and size.needle_lengths
    assert all(WINDOW < length <= TARGET for length in (*size.needle_lengths, *beyond))


@pytest.mark.parametrize("times", [0, 0.01, -1, 1000, float("nan")])
def test_what_cannot_be_is_refused(times: float) -> None:
    with pytest.raises(ConfigError, match=r"0\.1 to 100"):
        sized(times)
