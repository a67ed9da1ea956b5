"""Folders that are to be written: whether they could be made, asked before anything is."""

from __future__ import annotations

import os
from pathlib import Path

# File systems that take no files, whatever their permissions say to root.
_NO_FILES = {
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "pstore",
}


def why_unwritable(folder: Path) -> str | None:
    """The reason why a folder cannot be made or written to; None where it can be. Makes nothing itself."""
    path = folder.expanduser().absolute()
    if "\0" in str(path):
        return "it has a character that no path can have"
    nearest = path
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    # lexists says no of names that are too long, too: their parents are, and then they are measured.
    if not nearest.is_dir():
        return f"{nearest} is a file" if nearest.exists() else f"{nearest} is a link to nothing"
    longest = os.pathconf(nearest, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in path.parts):
        return f"a name of more than {longest} bytes"
    if _kind_of(nearest) in _NO_FILES:
        return f"{nearest} takes no files ({_kind_of(nearest)})"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} is not writable for you"
    return None


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; no for names that none can have, where Python raises."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def _kind_of(folder: Path) -> str:
    """The kind of file system that a folder is on, as Linux names it; empty where that is not known."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = folder.resolve()
    inside = [mount for mount in mounts if len(mount) > 2 and real.is_relative_to(mount[1])]
    return max(inside, key=lambda mount: len(mount[1]))[2] if inside else ""
