from __future__ import annotations

import pytest

from nemo_pi.evaluation.text_tables import thin


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (3, [1, 2, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (9, [1, 3, 5, 7, 9]),
        (32, [4, 8, 12, 16, 20, 24, 28, 32]),
    ],
)
def test_too_many_lengths_are_thinned_and_the_last_stays(count: int, expected: list[int]) -> None:
    assert thin(list(range(1, count + 1))) == expected
    assert thin(tuple(range(1, count + 1))) == expected
