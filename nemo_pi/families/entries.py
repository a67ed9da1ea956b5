"""Entries of a config.json, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_pi.errors import CheckpointError

CORRECT = "correct this entry of config.json, or copy the file again"
"""How to fix an entry that no model can have."""


def size(config: Mapping[str, Any], key: str) -> int:
    """A positive integer.

    Raises:
        CheckpointError: it is missing or something else.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise unusable(key, "a positive integer", value)
    return value


def epsilon(config: Mapping[str, Any], key: str) -> float:
    """A norm's epsilon, in (0, 1).

    Raises:
        CheckpointError: it is missing or something else.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise unusable(key, "a small positive number", value)
    return float(value)


def unusable(key: str, required: str, given: Any, fix: str = CORRECT) -> CheckpointError:
    """The error for an entry that is not what it must be."""
    shown = repr(given) if isinstance(given, str) else given  # a number in quotes must look like one
    return CheckpointError(f"config.json: {key}", required=required, given=shown, fix=fix)
