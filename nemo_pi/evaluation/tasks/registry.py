"""Tasks by name: those of this package, and those that others register.

A distribution of its own registers tasks through the entry point group `nemo_pi.tasks` (name → module:Class);
a script calls `register`. A configuration only ever names a task: it cannot name code.
"""

from __future__ import annotations

from typing import Any, TypeVar

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.tasks.base import Task
from nemo_pi.evaluation.tasks.lm_eval import LmEval
from nemo_pi.evaluation.tasks.longppl import LongPpl
from nemo_pi.evaluation.tasks.needle import Needle
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.evaluation.tasks.position_loss import PositionLoss
from nemo_pi.evaluation.tasks.ruler import Ruler
from nemo_pi.evaluation.tasks.short import Short
from nemo_pi.evaluation.tasks.summarization import Summarization
from nemo_pi.plug_ins import PlugIns
from nemo_pi.rope.validation import did_you_mean

TaskType = type[Task[Any, Any]]
_T = TypeVar("_T", bound=TaskType)

# In the order of the report.
_TASKS: dict[str, TaskType] = {
    task.name: task
    for task in (Perplexity, Passkey, Short, PositionLoss, LongPpl, Needle, Ruler, Summarization, LmEval)
}
PLUG_INS = PlugIns[Task[Any, Any]](
    "nemo_pi.tasks",
    kind="task",
    expected=Task,  # type: ignore[type-abstract]  # it is compared with, never made
    built_in=tuple(_TASKS),
)
"""Tasks of other packages."""


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
            fix="give one of them another name",
        )
    return task


def task_names() -> list[str]:
    """Return the names of all tasks; those of installed packages are not imported for it."""
    return [*_TASKS, *(name for name in PLUG_INS.names() if name not in _TASKS)]


def task_type(name: str, field: str = "tasks") -> TaskType:
    """Return the task of this name.

    Args:
        name: of the task.
        field: where the name stands, for the message.

    Raises:
        ConfigError: there is none (names the nearest), or the package that registers it is broken.
    """
    found = _TASKS.get(name) or PLUG_INS.class_named(name)
    if found is not None:
        return found
    names = task_names()
    fix = f"{did_you_mean(name, names)}; or {PLUG_INS.how_to_get()}"  # results may come from elsewhere
    raise ConfigError(field, required=f"a task: {', '.join(names)}", given=name, fix=fix)
