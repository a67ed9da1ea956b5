from __future__ import annotations

import math

import pytest

from nemo_pi.evaluation.tasks.perplexity import format_perplexity


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7.2, "7.20"),
        (99.94, "99.94"),
        (99.96, "100.0"),
        (112.13, "112.1"),
        (999.96, "1,000"),
        (15_300.4, "15,300"),
        (99_999.4, "99,999"),
        (1.5e6, "1.5e+06"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (None, "–"),
    ],
)
def test_perplexities_are_short_and_exact_enough(value: float | None, expected: str) -> None:
    assert format_perplexity(value) == expected
    assert len(expected) <= 7
