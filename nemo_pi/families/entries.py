"""Entries of a config.json, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nemo_pi.errors import CheckpointError
from nemo_pi.families.shape import MOST, MOST_LAYERS

__all__ = ["CORRECT", "MOST", "MOST_LAYERS", "epsilon", "flag", "size", "unusable"]

CORRECT = "correct this entry of config.json, or copy the file again"
"""How to fix an entry that no model can have."""


def size(config: Mapping[str, Any], key: str, most: int = MOST) -> int:
    """A positive integer.

    Raises:
        CheckpointError: it is missing, above `most` or something else.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise unusable(key, "a positive integer", value)
    if value > most:
        # Python refuses to write out integers of thousands of digits.
        raise unusable(key, f"at most {most:,}", value if value < 2**64 else "a number above 2^64")
    return value


def flag(config: Mapping[str, Any], key: str) -> bool:
    """A boolean. As in transformers, neither null nor a number is one; "false" in quotes would be true.

    Raises:
        CheckpointError: it is missing or something else.
    """
    value = config.get(key)
    if not isinstance(value, bool):
        raise unusable(key, "true or false, without quotes", "null" if value is None else value)
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


ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        "gelu_python": "gelu",
        # All of them the approximation by tanh, written out in one way or another.
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_python_tanh": "gelu_tanh",
        "gelu_accurate": "gelu_tanh",
        "relu2": "relu2",
    }
)
"""transformers' names of activations, with the shape's name for each."""


def activation(config: Mapping[str, Any], key: str) -> str:
    """The shape's name of an activation.

    Raises:
        CheckpointError: it is missing or none that can be computed here.
    """
    value = config.get(key)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        fix = "start from a checkpoint with one of these"
        raise unusable(key, f"one of {', '.join(ACTIVATIONS)}", value, fix)
    return ACTIVATIONS[value]


def hf_activation(name: str) -> str:
    """The inverse: the first of transformers' names."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == name)


def positive(config: Mapping[str, Any], key: str) -> float:
    """A finite number above 0.

    Raises:
        CheckpointError: it is missing or something else.
    """
    value = config.get(key)
    # Larger than any float is no number either: a comparison tells, where a conversion would overflow.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 2**127:
        raise unusable(key, "a positive number", value)
    return float(value)


def unusable(key: str, required: str, given: Any, fix: str = CORRECT) -> CheckpointError:
    """The error for an entry that is not what it must be."""
    shown = repr(given) if isinstance(given, str) else given  # a number in quotes must look like one
    return CheckpointError(f"config.json: {key}", required=required, given=shown, fix=fix)
