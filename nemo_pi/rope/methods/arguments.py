"""Fields of a scaling method that know how to check what a YAML gives them.

    @dataclass(frozen=True)
    class MyMethod(ScalingMethod):
        gain: float = number(1.0, above=0.0)

Each check takes the field's name in messages, the value and the number of rotated pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.rope.validation import check_flag, check_number

MOST_ATTENTION_FACTOR = 1000.0
"""Published ones lie below 2; q·k grows by the square, which 16 bits must hold."""


def number(default: float | None = None, *, above: float | None = None, at_most: float | None = None) -> Any:
    """A finite number within limits; stored as float. Default None: not given."""

    def check(name: str, value: Any, num_frequencies: int) -> float:
        return check_number(name, value, above=above, at_most=at_most)

    return field(default=default, metadata={"check": check})


def flag(default: bool | None = None) -> Any:
    """A boolean. Default None: not given."""

    def check(name: str, value: Any, num_frequencies: int) -> bool:
        return check_flag(name, value)

    return field(default=default, metadata={"check": check})


def per_frequency() -> Any:
    """A list with a number above 0 for each rotated pair; stored as a tuple. Default None: not given."""
    return field(default=None, metadata={"check": _positive_each})


def _positive_each(name: str, value: Any, num_frequencies: int) -> tuple[float, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not is_list or len(value) != num_frequencies:
        required = f"a list of {num_frequencies} numbers (half the rotary dimension)"
        given = f"{len(value)} of them" if is_list else repr(value)
        raise ConfigError(name, required=required, given=given, fix="give one factor per frequency")
    return tuple(check_number(f"{name}[{i}]", entry, above=0.0) for i, entry in enumerate(value))
