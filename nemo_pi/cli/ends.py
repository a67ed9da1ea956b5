"""How command lines begin and end: any spelling of an override, and one message for a user's mistake."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from nemo_pi.config.overrides import as_hydra, refusal, refused_by_hydra
from nemo_pi.errors import NemoPiError

T = TypeVar("T")
USER_ERROR = 2
"""Exit status after a mistake that the message says how to mend."""


def reports_errors(main: Callable[..., T]) -> Callable[..., T]:
    """Prints a NemoPiError on standard error and exits with status 2; other errors keep their traceback."""

    @functools.wraps(main)
    def wrapper(*args: object, **kwargs: object) -> T:
        try:
            return main(*args, **kwargs)
        except NemoPiError as error:
            _end(error)

    return wrapper


def understands_overrides(main: Callable[..., T]) -> Callable[..., T]:
    """Around hydra_runner: overrides as people write them, Hydra's errors as reports_errors ends ours."""

    @functools.wraps(main)
    def wrapper(*args: object, **kwargs: object) -> T:
        sys.argv[1:] = [as_hydra(argument) for argument in sys.argv[1:]]
        # Hydra then raises its errors instead of printing them.
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        try:
            return main(*args, **kwargs)
        except Exception as error:
            if not refused_by_hydra(error):
                raise
            _end(refusal(error))

    return wrapper


def _end(error: NemoPiError) -> NoReturn:
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)
