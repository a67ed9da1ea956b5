"""Which steps may change the weights."""

from __future__ import annotations

import json

import pytest

from nemo_pi.engine.guard import HISTORY, SPIKE, StepGuard
from nemo_pi.errors import TrainingError

NAN, INF = float("nan"), float("inf")


def seen(guard: StepGuard, *norms: float) -> list[bool]:
    return [guard.accepts(step, 2.0, norm) for step, norm in enumerate(norms, start=1)]


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(NAN, 1.0, "loss"), (INF, 1.0, "loss"), (2.0, NAN, "norm"), (2.0, INF, "norm")]
)
def test_without_leave_the_first_bad_step_ends_the_run(loss: float, norm: float, what: str) -> None:
    with pytest.raises(TrainingError, match=f"step 7: required a finite .*{what}.*weights were not changed"):
        StepGuard(0).accepts(7, loss, norm)


def test_without_leave_spikes_are_trained_on() -> None:
    assert seen(StepGuard(0), *[1.0] * 20, 1e6) == [True] * 21


def test_as_many_are_left_out_as_are_allowed() -> None:
    guard = StepGuard(2)
    assert seen(guard, 1.0, NAN, 1.0, INF) == [True, False, True, False]
    assert guard.skipped == 2
    with pytest.raises(TrainingError, match=r"2 steps were left out before .*model.skip_bad_steps=10"):
        guard.accepts(5, NAN, 1.0)


def test_a_stage_begins_without_the_norms_of_the_one_before() -> None:
    guard = StepGuard(2)
    assert seen(guard, *[1.0] * 20, NAN) == [True] * 20 + [False]
    guard.begin_stage()
    assert guard.accepts(22, 2.0, 100.0), "compared with another stage's norms"
    assert guard.skipped == 1, "the count is of the whole run"


def test_a_spike_is_far_above_the_median_of_the_last() -> None:
    guard = StepGuard(9)
    assert all(seen(guard, 1.0, 2.0, 3.0, 100.0, 1.0, 2.0, 3.0)), "too few to call any of them a spike"
    assert guard.accepts(8, 2.0, 2.0)
    assert guard.accepts(9, 2.0, SPIKE * 2.0), "not above it"
    assert not guard.accepts(10, 2.0, SPIKE * 2.0 + 0.1)
    assert guard.accepts(11, 2.0, 2.0)


def test_norms_that_rise_slowly_are_no_spikes() -> None:
    assert all(seen(StepGuard(1), *(1.05**step for step in range(4 * HISTORY))))


def test_a_resumed_run_judges_as_one_that_was_never_stopped() -> None:
    norms = [1.0 + 0.1 * step for step in range(40)] + [NAN, 60.0, 2.0, 80.0]
    whole, first = StepGuard(9), StepGuard(9)
    answers = seen(whole, *norms)
    before = seen(first, *norms[:41])
    second = StepGuard(9)
    second.restore(json.loads(json.dumps(first.state())))
    assert before + seen(second, *norms[41:]) == answers
    assert second.state() == whole.state() and whole.skipped == 3


@pytest.mark.parametrize("state", [None, 3, [], {"norms": "x"}, {"norms": ["x"], "skipped": "3"}])
def test_a_foreign_state_only_moves_a_threshold(state: object) -> None:
    guard = StepGuard(1)
    guard.restore(state)
    assert guard.accepts(1, 2.0, 1.0) and guard.skipped == 0


def test_a_run_that_leaves_nothing_out_keeps_nothing() -> None:
    guard = StepGuard(0)
    seen(guard, 1.0, 2.0)
    assert guard.state() == {}
