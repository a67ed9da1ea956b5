"""Bounds that make an evaluation fail: `gate: {short_perplexity: 1.02}` in conf/evaluate.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.tasks.base import Gate, Measured, Task
from nemo_pi.evaluation.tasks.registry import PLUG_INS, TaskType, task_type
from nemo_pi.rope.validation import did_you_mean, is_finite


def check_gates(
    bounds: Mapping[str, float], tasks: Sequence[Task[Any, Any]], num_models: int, target_window: int
) -> None:
    """Refuse gates that nothing measured can pass through, before anything is measured.

    Raises:
        ConfigError: an unknown gate, one whose task is not run, a bound that is no number or beyond all that
            is tried, or a comparison without a second model.
    """
    check_known(bounds, tasks, "gate", "tasks")
    check_numbers(bounds, tasks, target_window, "gate")
    check_reach(bounds, tasks, target_window, "gate", "tasks")
    if bounds and num_models < 2:
        raise ConfigError(
            "gate",
            required="at least two models: the first is what the others are compared with, and passes",
            given=f"{num_models}",
            fix="models=[BEFORE,AFTER]",
        )


def check_known(
    bounds: Mapping[str, float], tasks: Sequence[Task[Any, Any]], key: str, tasks_key: str
) -> None:
    """Refuse bounds of gates that none of the tasks has.

    Args:
        bounds: by the gate's name.
        tasks: that are run.
        key: under which the bounds stand, for messages.
        tasks_key: under which the tasks stand.

    Raises:
        ConfigError: naming the nearest gate.
    """
    known = gates_of(tasks)
    for name in bounds:
        if name not in known:
            elsewhere = gates_of([task_type(each) for each in PLUG_INS.built_in])
            run = [task.name for task in tasks]
            fix = did_you_mean(name, [*known, *(other for other in elsewhere if other not in known)])
            if name in elsewhere:
                fix = f"measure it, too: '{tasks_key}=[{','.join([*run, elsewhere[name][0]])}]'"
            raise ConfigError(
                f"{key}.{name}",
                required=f"a gate of the tasks that are run: {', '.join(known) or 'they have none'}",
                given=name,
                fix=fix,
            )


def check_numbers(
    bounds: Mapping[str, Any], tasks: Sequence[Task[Any, Any]], target_window: int, key: str
) -> None:
    """Refuse bounds that are no numbers; arguments as those of `check_reach`.

    Raises:
        ConfigError: with a bound of the gate's own kind.
    """
    for name, task, gate in _with_gates(bounds, tasks):
        if not is_finite(bounds[name]):
            raise ConfigError(
                f"{key}.{name}",
                required="a number",
                given=repr(bounds[name]),
                fix=f"{key}.{name}={gate.suggested(task, target_window)}",
            )


def check_reach(
    bounds: Mapping[str, float],
    tasks: Sequence[Task[Any, Any]],
    target_window: int,
    key: str,
    tasks_key: str,
) -> None:
    """Refuse lower bounds above the highest number that can come of what is tried.

    Args:
        bounds: by the gate's name, each of one of the tasks.
        tasks: that are run.
        target_window: up to which they measure where they name no lengths, in tokens.
        key, tasks_key: as those of `check_known`.

    Raises:
        ConfigError: with the highest bound that can be reached.
    """
    for name, task, gate in _with_gates(bounds, tasks):
        bound, most = bounds[name], gate.suggested(task, target_window)
        if gate.reach is None or gate.at_most or bound <= most:
            continue
        fix = f"{key}.{name}={most}"
        if float(bound).is_integer() and bound <= target_window:
            fix += f", or add {bound:.0f} to {tasks_key}.{task.name}.lengths"
        raise ConfigError(
            f"{key}.{name}",
            required=f"at most {most}, the longest length that is tried",
            given=bound,
            fix=fix,
        )


def _with_gates(
    names: Iterable[str], tasks: Sequence[Task[Any, Any]]
) -> list[tuple[str, Task[Any, Any], Gate]]:
    return [(name, task, task.gates[name]) for name in names for task in tasks if name in task.gates]


def gates_of(tasks: Sequence[Task[Any, Any] | TaskType]) -> dict[str, tuple[str, Gate]]:
    """Gate's name → its task's name and the gate."""
    return {name: (task.name, gate) for task in tasks for name, gate in task.gates.items()}


def failures(
    models: Sequence[ModelResults], bounds: Mapping[str, float], tasks: Sequence[Task[Any, Any]]
) -> list[str]:
    """One sentence for every model after the first and every gate that it does not pass."""
    known, found = gates_of(tasks), []
    for name, bound in bounds.items():
        measured = [_measured(model, known[name][0]) for model in models]
        for model in measured[1:]:
            passes, sentence = _compared(name, known[name][1], bound, measured, model)
            found += [] if passes else [f"{model.model}: {sentence}"]
    return found


def compared(
    model: ModelResults, bounds: Mapping[str, float], tasks: Sequence[Task[Any, Any]]
) -> list[tuple[bool, str]]:
    """Of a model alone, for each bound: whether it is kept, and the sentence that says so."""
    known = gates_of(tasks)
    found = []
    for name, bound in bounds.items():
        own = _measured(model, known[name][0])
        found.append(_compared(name, known[name][1], bound, [own], own))
    return found


def _measured(model: ModelResults, task: str) -> Measured[Any]:
    return Measured(model.name, model.original_window, model.target_window, model.tasks.get(task))


def _compared(
    name: str, gate: Gate, bound: float, models: Sequence[Measured[Any]], model: Measured[Any]
) -> tuple[bool, str]:
    value = gate.value(models, model)
    # Written so that NaN fails, too.
    passes = value is not None and (value <= bound if gate.at_most else value >= bound)
    wanted = "at most" if gate.at_most else "at least"
    given = "not measured" if value is None else f"{value:,.4g}"
    if gate.detail is not None and model.result is not None:
        given += f" {gate.detail(model.result)}"
    return passes, f"{gate.of} is {given}, required {wanted} {bound:,.6g} ({name})"
