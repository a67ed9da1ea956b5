"""Ctrl-C in the middle of something."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any


def interrupted_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or method, but that its call of this number, from 1, is met by Ctrl-C."""
    calls = itertools.count(1)

    def called(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return called
