"""Tasks by name: those of this package, and those that others register.

A distribution of its own registers tasks through the entry point group `nemo_pi.tasks` (name → module:Class);
a script calls `register`. A configuration only ever names a task: it cannot name code.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, TypeVar

from nemo_pi.errors import ConfigError, nearest
from nemo_pi.evaluation.tasks.base import Task
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity

ENTRY_POINTS = "nemo_pi.tasks"
TaskType = type[Task[Any, Any]]
_T = TypeVar("_T", bound=TaskType)

# In the order of the report.
_TASKS: dict[str, TaskType] = {task.name: task for task in (Perplexity, Passkey)}


def register(task: _T) -> _T:
    """Make a task known by its name; usable as a decorator.

    Raises:
        ConfigError: another task has this name.
    """
    other = _TASKS.setdefault(task.name, task)
    if other is not task:
        raise ConfigError(
            f"task {task.name}",
            required="a name that no other task has",
            given=f"{task.__qualname__} beside {other.__qualname__}",
            mend="give one of them another name",
        )
    return task


def task_names() -> list[str]:
    """Return the names of all tasks, installed ones included."""
    installed = {entry.name for entry in entry_points(group=ENTRY_POINTS)}
    return [*_TASKS, *sorted(installed - _TASKS.keys())]


def task_type(name: str, field: str = "tasks") -> TaskType:
    """Return the task of this name.

    Args:
        name: of the task.
        field: where the name stands, for the message.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in _TASKS:
        for entry in entry_points(group=ENTRY_POINTS):
            if entry.name == name:
                return register(entry.load())
        names = task_names()
        near = nearest(name, names)
        raise ConfigError(
            field,
            required=f"a task: {', '.join(names)}",
            given=name,
            mend=f"did you mean {near}?" if near else "name one of them, or install what brings it",
        )
    return _TASKS[name]
