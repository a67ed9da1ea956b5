from __future__ import annotations

import math

import pytest

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.perplexity import Perplexity, format_perplexity
from tests.unit.evaluation.conftest import ByteTokenizer


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


def test_no_lengths_are_not_the_default_ones() -> None:
    context = TaskContext(ByteTokenizer(), [list(range(100))], 16, 32)  # type: ignore[arg-type]
    assert Perplexity(stride=8).plan(context).work.lengths == (16, 32)
    with pytest.raises(ConfigError, match=r"lengths: required .*; given \[\]"):
        Perplexity(lengths=(), stride=8).plan(context)
