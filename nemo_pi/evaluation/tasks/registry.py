"""Tasks by name: those of this package, and those that others register.

A distribution of its own registers tasks through the entry point group `nemo_pi.tasks` (name → module:Class);
a script calls `register`. A configuration only ever names a task: it cannot name code.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.tasks.base import Task
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.rope.validation import did_you_mean

GROUP = "nemo_pi.tasks"
"""The entry point group of tasks from other packages."""
TaskType = type[Task[Any, Any]]
_T = TypeVar("_T", bound=TaskType)

# In the order of the report.
_TASKS: dict[str, TaskType] = {task.name: task for task in (Perplexity, Passkey)}


def register(task: _T) -> _T:
    """Make a task known by its name for the rest of the process; usable as a decorator.

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
    """Return the names of all tasks; those of installed packages are not imported for it."""
    return [*_TASKS, *sorted(entry.name for entry in entry_points(group=GROUP) if entry.name not in _TASKS)]


def task_type(name: str, field: str = "tasks") -> TaskType:
    """Return the task of this name.

    Args:
        name: of the task.
        field: where the name stands, for the message.

    Raises:
        ConfigError: there is none (names the nearest), or the package that registers it is broken.
    """
    if name in _TASKS:
        return _TASKS[name]
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return register(_load(entry))
    names = task_names()
    raise ConfigError(
        field, required=f"a task: {', '.join(names)}", given=name, mend=did_you_mean(name, names)
    )


def _load(entry: EntryPoint) -> TaskType:
    try:
        task = entry.load()
    except Exception as error:
        task = error
    if not (isinstance(task, type) and issubclass(task, Task) and task.name == entry.name):
        raise ConfigError(
            f"task {entry.name}",
            required=f"{entry.value} to be a Task of this name, as its package registers it",
            given=f"{type(task).__name__}: {task}" if isinstance(task, Exception) else task,
            mend="update or uninstall that package",
        )
    return task
