"""Bounds that make an evaluation fail: `gate: {short_perplexity: 1.02}` in conf/evaluate.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.tasks.base import Gate, Measured, Task
from nemo_pi.rope.validation import did_you_mean


def check_gates(bounds: Mapping[str, float], tasks: Sequence[Task[Any, Any]], num_models: int) -> None:
    """Refuse gates that nothing measured can pass through, before anything is measured.

    Raises:
        ConfigError: an unknown gate, one whose task is not run, or a comparison without a second model.
    """
    known = gates_of(tasks)
    for name in bounds:
        if name not in known:
            names = ", ".join(known) or "none: its tasks are left out"
            raise ConfigError(
                f"gate.{name}",
                required=f"a gate of the tasks that are run: {names}",
                given=name,
                fix=did_you_mean(name, list(known)) if known else "add the task, e.g. tasks.short={}",
            )
    if bounds and num_models < 2:
        raise ConfigError(
            "gate",
            required="at least two models: the first is what the others are compared with, and passes",
            given=f"{num_models}",
            fix="models=[BEFORE,AFTER]",
        )


def gates_of(tasks: Sequence[Task[Any, Any]]) -> dict[str, tuple[str, Gate]]:
    """Gate's name → its task's name and the gate."""
    return {name: (task.name, gate) for task in tasks for name, gate in type(task).gates.items()}


def failures(
    models: Sequence[ModelResults], bounds: Mapping[str, float], tasks: Sequence[Task[Any, Any]]
) -> list[str]:
    """One sentence for every model after the first and every gate that it does not pass."""
    known, found = gates_of(tasks), []
    for name, bound in bounds.items():
        task, gate = known[name]
        measured = [
            Measured(model.name, model.original_window, model.target_window, model.tasks.get(task))
            for model in models
        ]
        for model in measured[1:]:
            value = gate.value(measured, model)
            # Written so that NaN fails, too.
            passes = value is not None and (value <= bound if gate.at_most else value >= bound)
            if not passes:
                wanted = "at most" if gate.at_most else "at least"
                given = "not measured" if value is None else f"{value:,.4g}"
                found.append(f"{model.model}: {gate.of} is {given}, required {wanted} {bound:,.6g} ({name})")
    return found
