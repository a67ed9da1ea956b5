"""When a run measures while it trains."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_pi.config.evaluation import EvaluationSettings, check_goal_in_reach, resolve_evaluation
from nemo_pi.config.sections import EvaluationConfig
from nemo_pi.errors import ConfigError


@pytest.mark.parametrize(("every", "last"), [(1, 3), (2, 5), (3, 3), (7, 4)])
def test_it_is_due_behind_every_so_many_steps_and_the_last(every: int, last: int) -> None:
    settings = EvaluationSettings(every, (), None, {}, None, 8192)
    due = [step for step in range(last + 1) if settings.is_due(step, last)]
    assert due == sorted({*range(every, last + 1, every), last})
    assert settings.times(last) == len(due)


@pytest.mark.parametrize(
    ("passkey", "goal", "fix"),
    [
        ({"lengths": [200]}, 300, "=200, or add 300 to model.evaluation.tasks.passkey.lengths"),
        ({"lengths": [200, 300]}, 300, None),
        ({"lengths": [200]}, 9999, "=200"),
        ({}, 1025, "=1024"),
        ({}, 1024, None),
    ],
)
def test_a_goal_that_no_measurement_reaches_is_refused(
    passkey: dict[str, Any], goal: int, fix: str | None
) -> None:
    """Such a run would train to its last step, whatever the model learns."""
    section = EvaluationConfig(tasks={"passkey": passkey}, stop_at={"k_max": goal})
    settings = resolve_evaluation(section, 1024)
    if fix is None:
        check_goal_in_reach(settings, 1024)
        return
    with pytest.raises(ConfigError, match=r"^model\.evaluation\.stop_at\.k_max: required at most") as raised:
        check_goal_in_reach(settings, 1024)
    assert raised.value.fix == f"model.evaluation.stop_at.k_max{fix}"


def test_a_goal_may_be_that_of_a_later_stage() -> None:
    settings = resolve_evaluation(EvaluationConfig(tasks={"passkey": {}}, stop_at={"k_max": 2048}), 1024)
    check_goal_in_reach(settings, 2048)


@pytest.mark.parametrize("passkey", [{}, {"lengths": [200]}], ids=str)
def test_the_goal_that_is_suggested_can_be_reached(passkey: dict[str, Any]) -> None:
    section = EvaluationConfig(tasks={"passkey": passkey}, stop_at={"k_max": "far"})
    with pytest.raises(ConfigError) as raised:
        resolve_evaluation(section, 1024)
    key, _, value = raised.value.fix.partition("=")
    assert key == "model.evaluation.stop_at.k_max"
    section.stop_at = {"k_max": int(value)}
    check_goal_in_reach(resolve_evaluation(section, 1024), 1024)
