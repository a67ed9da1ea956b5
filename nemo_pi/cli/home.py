"""A home folder where none is known: in a container whose user has no entry and no HOME, NeMo cannot be
imported, and no cache can be kept."""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Sets HOME to a folder of this user's below the one for temporary files, and USER, where nobody knows
    them; says so. Processes that are started from here inherit it."""
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir()) / f"nemo_pi-home-{os.getuid()}"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["HOME"] = str(home)
        print(
            f"HOME is not set and user {os.getuid()} is unknown: {home} serves as home folder.",
            file=sys.stderr,
        )
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["USER"] = f"user-{os.getuid()}"
