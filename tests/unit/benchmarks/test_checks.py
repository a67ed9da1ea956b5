"""Contestants that computed something else must not be compared."""

from __future__ import annotations

import pytest

from benchmarks.training.checks import disqualify_other_work
from benchmarks.training.race import Outcome


def test_equal_work_gives_the_largest_differences() -> None:
    one, other = Outcome(losses=[5.0, 4.0, 3.0]), Outcome(losses=[5.00001, 4.001])
    assert disqualify_other_work({"one": one, "other": other}) == pytest.approx((1e-5, 1e-3))


@pytest.mark.parametrize("losses", [[5.01, 4.0], [5.0, 4.5], [float("nan")]])
def test_other_work_does_not_count(losses: list[float]) -> None:
    outcomes = {
        "one": Outcome(losses=[5.0, 4.0], seconds=[1.0]),
        "other": Outcome(losses=losses, seconds=[1.0]),
        "third": Outcome(losses=[5.00001], seconds=[1.0]),
    }
    assert disqualify_other_work(outcomes) == pytest.approx((1e-5, 0.0))
    assert [bool(one.seconds) for one in outcomes.values()] == [True, False, True]
    assert outcomes["other"].failure.startswith("other: not the same work: loss ")
    assert not outcomes["one"].failure


def test_sixteen_bit_losses_may_differ_more() -> None:
    outcomes = {"one": Outcome(losses=[5.0]), "other": Outcome(losses=[5.01])}
    assert disqualify_other_work(outcomes, bf16=True)[0] == pytest.approx(0.01)


def test_a_contestant_that_failed_is_passed_over() -> None:
    outcomes = {"one": Outcome(failure="out of memory"), "other": Outcome(losses=[5.0])}
    assert disqualify_other_work(outcomes) == (0.0, 0.0)
