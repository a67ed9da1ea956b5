"""The file of a lock: who holds it, and when it was last touched, also over a network."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.processes import Writer, this_process


@dataclass(frozen=True)
class Holder:
    """What a lock says of who holds it."""

    writer: Writer
    """The process."""
    what: str
    """What it does, for messages."""
    since: str
    """When it began."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**self.writer.to_json(), "what": self.what, "since": self.since}


def holder_of(lock: Path) -> Holder | None:
    """Who holds a lock, living or not; None where nobody does, or the file says nothing (yet)."""
    try:
        values = json.loads(lock.read_text(encoding="utf-8"))
        writer = Writer.from_json(values)
        return None if writer is None else Holder(writer, str(values["what"]), str(values["since"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_synced(path: Path, content: bytes, how: int) -> None:
    """Writes a file that is on the disk when this returns; `how` is O_EXCL or O_TRUNC."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o644)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def touched(path: Path) -> float | None:
    """When a file was last touched; None where there is none. Opened, so that NFS asks its server."""
    try:
        with path.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return None


def age_of(path: Path) -> float | None:
    """Seconds since a file was touched, by the file system's own clock; None where there is none."""
    then = touched(path)
    if then is None:
        return None
    probe = path.with_name(f"{path.name}.{this_process().token}.clock")
    try:
        write_synced(probe, b"", os.O_TRUNC)
        return max(0.0, probe.stat().st_mtime - then)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
