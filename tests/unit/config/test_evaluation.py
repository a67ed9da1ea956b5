"""When a run measures while it trains."""

from __future__ import annotations

import pytest

from nemo_pi.config.evaluation import EvaluationSettings


@pytest.mark.parametrize(("every", "last"), [(1, 3), (2, 5), (3, 3), (7, 4)])
def test_it_is_due_behind_every_so_many_steps_and_the_last(every: int, last: int) -> None:
    settings = EvaluationSettings(every, (), None, {}, None, 8192)
    due = [step for step in range(last + 1) if settings.is_due(step, last)]
    assert due == sorted({*range(every, last + 1, every), last})
    assert settings.times(last) == len(due)
