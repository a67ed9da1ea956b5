"""What the tasks of an evaluation take, for --help."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

import yaml

from nemo_pi.errors import NemoPiError
from nemo_pi.evaluation.tasks.registry import task_names, task_type


def describe_tasks() -> str:
    """Every task's arguments with their defaults, as overrides take them.

    Packages are imported for it; one that is broken gets a line that says so.
    """
    lines = ["Every key is explained in conf/evaluate.yaml. Tasks and their arguments:"]
    for name in task_names():
        try:
            kind: Any = task_type(name)
        except NemoPiError as error:  # a package's: help is for the others, too
            lines += [f"  tasks.{name}   cannot be used: {error}"]
            continue
        lines += [f"  tasks.{name}   {_headline(kind)}"]
        lines += [f"    tasks.{name}.{item.name}={_default(item)}" for item in fields(kind)]
    return "\n".join(lines)


def _headline(kind: Any) -> str:
    """The first line of a task's docstring; its title where it has none."""
    text = kind.__doc__ or ""
    # A dataclass without a docstring gets its signature for one.
    return kind.title if not text or text.startswith(f"{kind.__name__}(") else text.splitlines()[0]


def _default(item: Field[Any]) -> str:
    """An argument's default as YAML, in one line: null, false, [0.0, 0.5]."""
    if item.default_factory is not MISSING:
        value = item.default_factory()
    elif item.default is MISSING:
        return "(required)"
    else:
        value = item.default
    value = list(value) if isinstance(value, tuple) else value
    # A scalar is followed by YAML's end of document, which is a line of its own.
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]
