"""Tasks on one model: planned first, so that costs and errors come before anything is computed, then run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nemo_pi.evaluation.generation import Generated, GenerationRequest, check_room
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.scorer import Scorer, TokenScores
from nemo_pi.evaluation.tasks.base import Plan, Progress, Task, TaskContext
from nemo_pi.machine import describe_environment

Finished = Callable[[ModelResults], None]
"""Called after each task with everything measured so far."""


@dataclass(frozen=True)
class PlannedTask:
    """A task and what it is about to do."""

    task: Task[Any, Any]
    """With its arguments."""
    plan: Plan[Any]
    """Of its own making."""


def plan_tasks(tasks: Sequence[Task[Any, Any]], context: TaskContext) -> list[PlannedTask]:
    """Plan all tasks on a model, which need not be loaded.

    Raises:
        DataError, ConfigError: whatever keeps one of them from being run.
    """
    return [PlannedTask(task, task.plan(context)) for task in tasks]


def run_tasks(
    scorer: Scorer,
    planned: Sequence[PlannedTask],
    context: TaskContext,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    finished: Finished | None = None,
    origin: Mapping[str, dict[str, str]] | None = None,
) -> ModelResults:
    """Run planned tasks one after the other.

    Args:
        scorer: the model.
        planned: from plan_tasks with this context.
        context: what they share.
        name: what the report calls the model; None: the scorer's name.
        progress: called with what is measured, tokens done, and tokens to do in all tasks together.
        finished: called after each task.
        origin: what is known of the model, for the report (`ModelResults.origin`); costs, times and the
            environment are added.

    Raises:
        DataError, ConfigError: a task lets a text grow beyond the target window.
    """
    total, before = sum(item.plan.cost.tokens for item in planned), 0
    windows = context.original_window, context.target_window
    environment = {"Environment": describe_environment()}
    measured = ModelResults(name or scorer.name, *windows, {}, {**(origin or {}), "Plan": {}, **environment})
    within = _WithinWindow(scorer, context.target_window)
    for item in planned:
        started = time.perf_counter()
        result = item.task.run(within, item.plan, _shifted(progress, before, total))
        before += item.plan.cost.tokens
        took = f"{item.plan.cost.describe()}; took {time.perf_counter() - started:,.1f} s"
        plan = {**measured.origin["Plan"], item.task.title: took}
        measured = replace(
            measured,
            tasks={**measured.tasks, item.task.name: result},
            origin={**measured.origin, "Plan": plan},
        )
        if finished:
            finished(measured)
    return measured


def evaluate(
    scorer: Scorer,
    tasks: Sequence[Task[Any, Any]],
    context: TaskContext,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    origin: Mapping[str, dict[str, str]] | None = None,
) -> ModelResults:
    """Plan and run tasks on one model.

    Raises:
        DataError, ConfigError: as plan_tasks, before anything is computed.
    """
    planned = plan_tasks(tasks, context)
    return run_tasks(scorer, planned, context, name=name, progress=progress, origin=origin)


@dataclass(frozen=True)
class _WithinWindow:
    """A scorer whose texts stay within the target window: results are said to be of that window.

    The window of the evaluation, not the model's own: how a model fails beyond its own is worth measuring.
    """

    scorer: Scorer
    target_window: int

    @property
    def name(self) -> str:
        return self.scorer.name

    def score(self, tokens_BS: Tensor, labels_BS: Tensor, position_ids_BS: Tensor) -> TokenScores:
        return self.scorer.score(tokens_BS, labels_BS, position_ids_BS)

    def generate(self, prompts: Sequence[Sequence[int]], request: GenerationRequest) -> list[Generated]:
        longest, more = max(map(len, prompts), default=1), "raise target_window"
        check_room(self.target_window, longest, request.max_new_tokens, whose="the target", more=more)
        return self.scorer.generate(prompts, request)


def _shifted(progress: Progress | None, before: int, total: int) -> Progress:
    """Shift a task's progress by what was done before it, out of the total of all tasks."""
    if progress is None:
        return lambda *_: None
    return lambda what, done, _: progress(what, before + done, total)
