"""How command lines end after a user's mistake: one message and a status."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from nemo_pi.cli.home import ensure_home
from nemo_pi.errors import ConfigError, NemoPiError

T = TypeVar("T")
USER_ERROR = 2
"""Exit status after a mistake that the message says how to fix."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it."""

# What the file system says of a path that cannot be, whoever asked it.
_OF_PATHS = (
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ELOOP,
)


def reports_errors(main: Callable[..., T]) -> Callable[..., T]:
    """Prints a NemoPiError on standard error and exits with status 2; other errors keep their traceback.

    A path that the file system refuses (too long, a file in a folder's place, not permitted) is such a
    mistake, too, wherever it is noticed. Ctrl-C ends with status 130 and a word.
    """

    @functools.wraps(main)
    def wrapper(*args: object, **kwargs: object) -> T:
        try:
            ensure_home()
            return main(*args, **kwargs)
        except NemoPiError as error:
            end(error)
        except OSError as error:
            if error.errno not in _OF_PATHS or error.filename is None:
                raise
            end(of_path(error))
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C.", file=sys.stderr, flush=True)
            sys.exit(INTERRUPTED)

    return wrapper


def of_path(error: OSError) -> ConfigError:
    """A path that the file system refuses."""
    return ConfigError(
        str(os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename)[:300],
        required="a path that can be",
        given=error.strerror,
        fix="give another path, or correct the permissions of its folder",
    )


def end(error: NemoPiError) -> NoReturn:
    """Ends the process with a user's mistake."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    sys.exit(USER_ERROR)
