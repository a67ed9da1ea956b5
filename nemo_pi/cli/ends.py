"""How command lines end after a user's mistake: one message and a status."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from nemo_pi.errors import NemoPiError

T = TypeVar("T")
USER_ERROR = 2
"""Exit status after a mistake that the message says how to fix."""


def reports_errors(main: Callable[..., T]) -> Callable[..., T]:
    """Prints a NemoPiError on standard error and exits with status 2; other errors keep their traceback."""

    @functools.wraps(main)
    def wrapper(*args: object, **kwargs: object) -> T:
        try:
            return main(*args, **kwargs)
        except NemoPiError as error:
            end(error)

    return wrapper


def end(error: NemoPiError) -> NoReturn:
    """Ends the process with a user's mistake."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)
