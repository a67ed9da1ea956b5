"""Processes by host, number and start, so that one can tell of another whether it still lives."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

# A token is host, namespace, number and start, with these between them.
_TOKEN = re.compile(r"(?P<host>[\w-]+)-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<start>\d+)")


@dataclass(frozen=True)
class Writer:
    """A process that writes, or has written, a folder."""

    host: str
    """Name of its machine; letters, digits and underscores."""
    namespace: int
    """Its PID namespace: two containers of one host can both have a process 7."""
    pid: int
    """Its number there."""
    start: int
    """When it started, in the kernel's ticks: numbers are given again to later processes."""

    @property
    def token(self) -> str:
        """The same as a part of a file's name."""
        return f"{self.host}-{self.namespace}-{self.pid}-{self.start}"

    @classmethod
    def from_token(cls, token: str) -> Writer | None:
        """Who is meant by a part of a file's name; None where it is no token."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            return None
        return cls(found["host"], *(int(found[part]) for part in ("namespace", "pid", "start")))

    @classmethod
    def from_json(cls, values: Any) -> Writer | None:
        """Who wrote `to_json`'s values; None where they are something else."""
        try:
            writer = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError):
            return None
        numbers = (writer.namespace, writer.pid, writer.start)
        sound = isinstance(writer.host, str) and all(type(number) is int for number in numbers)
        return writer if sound else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def lives(self) -> bool | None:
        """Whether the process still runs; None where that cannot be seen from here."""
        here = this_process()
        if (self.host, self.namespace) != (here.host, here.namespace):
            return None
        return start_of(self.pid) == self.start

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def start_of(pid: int) -> int | None:
    """When a process of this machine started; None where there is none, or only its exit status is left.

    Where there is no /proc, 0 for every process that exists.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if Path("/proc/self/stat").exists() else _exists(pid)
    # The name, in parentheses, may hold spaces and parentheses itself.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in ("Z", "X") else int(fields[18])


def _exists(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0


def this_process() -> Writer:
    """The process that asks."""
    return _writer(os.getpid())


@cache
def _writer(pid: int) -> Writer:
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    # Cut, because a token is a part of names that file systems limit.
    host = re.sub(r"\W", "_", socket.gethostname())[:40] or "host"
    return Writer(host, namespace, pid, start_of(pid) or 0)
