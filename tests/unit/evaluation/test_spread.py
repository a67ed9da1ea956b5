from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_pi.evaluation.spread import spread


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], []),
        ([0.3], [0.3]),
        ([0.1, 0.9, 0.5], [0.1, 0.9, 0.5]),  # far enough apart: nothing moves
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.48, 0.9], [0.54, 0.44, 0.9]),  # the order of the lines stays that of the labels
        ([0.5, 0.5, 0.62], [0.44, 0.54, 0.64]),  # a pair that moves apart pushes its neighbour along
    ],
)
def test_small_cases(wanted: list[float], expected: list[float]) -> None:
    assert spread(wanted, 0.1) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_labels_keep_their_order_distance_and_mean(wanted: list[float]) -> None:
    places = spread(wanted, 0.1)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(places[b] - places[a] >= 0.1 - 1e-9 for a, b in pairwise(order))
    assert sum(places) == pytest.approx(sum(wanted))
