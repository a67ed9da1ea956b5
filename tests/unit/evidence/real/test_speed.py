"""The cost that two measured lengths mean."""

from __future__ import annotations

import pytest

from evidence.real.speed import LONG, SHORT, fit


def test_two_lengths_give_both_costs() -> None:
    products, attention = 2e-3, 3e-7
    speed = fit(*(products * n + attention * n * n for n in (SHORT, LONG)), 4.2, 1)
    assert speed.reading(32768) == pytest.approx(products * 32768 + attention * 32768**2)
    assert "4.2 s a training step" in speed.describe() and "388 s to read 32,768" in speed.describe()


def test_a_disturbed_probe_promises_nothing_below_zero() -> None:
    speed = fit(10.0, 9.0, 1.0, 2)
    assert speed.per_pair == 0 and speed.reading(1000) > 0
