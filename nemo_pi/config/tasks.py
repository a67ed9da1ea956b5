"""Evaluation's tasks as a YAML names them, with their arguments: checked, each error under the whole key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from nemo_pi.config.merge import from_mapping
from nemo_pi.errors import NemoPiError
from nemo_pi.evaluation.tasks.base import Task
from nemo_pi.evaluation.tasks.registry import PLUG_INS, task_names, task_type


def chosen_tasks(given: Mapping[str, Any], section: str = "tasks") -> list[Task[Any, Any]]:
    """The tasks of a section with their arguments; those that it leaves out (`false`) are not among them.

    Args:
        given: name → arguments, null for the defaults, or false.
        section: dotted key of it, for messages.

    Raises:
        ConfigError: an unknown task or argument, or a value that cannot be.
    """
    kept = {str(name): arguments for name, arguments in given.items() if arguments is not False}
    return [_task(name, arguments, section) for name, arguments in kept.items()]


def _task(name: str, arguments: Any, section: str) -> Task[Any, Any]:
    PLUG_INS.check_claims(name, f"{section}.{name}")
    kind = task_type(name, f"{section}.{name}")
    try:
        return from_mapping(kind, {} if arguments in (None, True) else arguments, f"{section}.{name}")
    except NemoPiError as error:
        raise located(error, kind, section) from error


def located(error: NemoPiError, task: Any, section: str = "tasks") -> NemoPiError:
    """An error about a task's argument, naming the key: `stride` becomes `tasks.perplexity.stride`."""
    return error.respelled({item.name: f"{section}.{task.name}.{item.name}" for item in fields(task)})


def known_arguments(names: Iterable[str]) -> dict[str, dict[str, None] | None]:
    """Every task with the names of its arguments; None where they are not known.

    Args:
        names: tasks that were asked for: a package's is imported for no other reason.
    """
    return dict.fromkeys(task_names()) | {name: _arguments(name) for name in [*PLUG_INS.built_in, *names]}


def _arguments(name: str) -> dict[str, None] | None:
    try:
        kind: Any = task_type(name)
    except NemoPiError:  # said by whoever asks for it
        return None
    return dict.fromkeys(item.name for item in fields(kind))
