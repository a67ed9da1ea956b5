"""One writer for a folder, on local disks and on network ones.

A lock is a small file that names its holder. It is made under a name of its own and gets the lock's name by a
hard link, which is atomic over NFS, where O_EXCL has not always been; where a file system has no links, by
O_EXCL. The holder touches it every few seconds. A holder of this machine that no longer runs has lost it at
once; one of another machine when the lock has not been touched for STALE_AFTER_SECONDS, as the file system
itself counts: clocks of machines differ.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from nemo_pi.checkpoint.lock_file import Holder, age_of, holder_of, touched, write_synced
from nemo_pi.errors import CheckpointError
from nemo_pi.processes import Writer, this_process

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""How often a holder touches its lock."""
STALE_AFTER_SECONDS = 90.0
"""A lock of another machine that was not touched for so long is taken over. More than a network file system
keeps a file's times in its cache (60 s)."""
_POLL_SECONDS = 2.0
_INSIDE = ".nemo_pi_writer"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)


def lock_inside(folder: Path) -> Path:
    """The lock of all that is written into a folder.

    In a folder of its own: NeMo's exp_manager moves the files that it finds among its logs.
    """
    return folder / _INSIDE / "lock"


def lock_beside(folder: Path) -> Path:
    """The lock of a folder that gets its name only when it is whole."""
    return folder.parent / f".{folder.name}.lock"


# Locks of this process by their real path: a run holds its folders while it saves into them.
_held: dict[str, _Lock] = {}


@contextlib.contextmanager
def sole_writer(lock: Path, folder: Path, what: str, fix: str) -> Iterator[None]:
    """Holds a lock; of one that this process holds already, nothing is done.

    Args:
        lock: its file; the folders above are made.
        folder: what it is for, in messages.
        what: what this process does, for those whom it keeps out.
        fix: what to do where it is held, besides waiting.

    Raises:
        CheckpointError: another process holds it, or it cannot be written.
    """
    key = os.path.realpath(lock)
    if key in _held:
        yield
        return
    held = _Lock(lock, folder, what, fix)
    held.take()
    _held[key] = held
    try:
        yield
    finally:
        del _held[key]
        held.give_back()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder that is about to be written, unless a run of this process holds it already.

    Raises:
        CheckpointError: another process writes it.
    """
    # A run holds the folder of all its checkpoints.
    around = lock_inside(folder.parent)
    if os.path.realpath(around) in _held:
        yield
        return
    with sole_writer(lock_beside(folder), folder, "a save or an export", "write to another folder"):
        yield


def check_held() -> None:
    """Looks whether every lock of this process is still its own, before something gets its final name.

    One that was suspended for minutes (a laptop's lid) has been taken for dead by another machine.

    Raises:
        CheckpointError: naming who has taken over.
    """
    for lock in list(_held.values()):
        lock.check()


class _Lock:
    """A lock that is held, or about to be."""

    def __init__(self, path: Path, folder: Path, what: str, fix: str) -> None:
        self.path, self.folder, self.fix = path, folder, fix
        self.me = Holder(this_process(), what, datetime.now().astimezone().isoformat(timespec="seconds"))
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Takes the lock, from a dead holder if need be."""
        try:
            while not self._try():
                pass
            self._sweep()
        except OSError as error:
            raise CheckpointError(
                str(self.folder),
                required="a folder that can be written to",
                given=f"no lock in it ({error.strerror or error})",
                fix="give another folder, or correct its permissions or its free space",
            ) from error
        self._thread = threading.Thread(target=self._beat, name="nemo_pi-lock", daemon=True)
        self._thread.start()

    def _try(self) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._make():
                return True
            self._wait_or_refuse()
        except FileNotFoundError:
            # Another process has given it back, and removed its folder, in between.
            if not self.path.parent.parent.is_dir():
                raise
        return False

    def _sweep(self) -> None:
        """Removes what processes that were killed between two operations of this file have left."""
        for left in self.path.parent.glob(f"{glob.escape(self.path.name)}.*"):
            token = left.name.removeprefix(f"{self.path.name}.").partition(".")[0]
            writer = Writer.from_token(token)
            if writer is not None and writer.lives() is False:
                left.unlink(missing_ok=True)

    def give_back(self) -> None:
        """Removes the lock, if it is still this process's."""
        self._done.set()
        # A forked process has the lock's object, and not the lock.
        if self.me.writer == this_process() and holder_of(self.path) == self.me:
            with contextlib.suppress(OSError):
                self.path.unlink()
                if self.path.parent.name == _INSIDE:
                    self.path.parent.rmdir()

    def check(self) -> None:
        """See `check_held`."""
        if not self._is_mine():
            other = holder_of(self.path)
            raise CheckpointError(
                str(self.folder),
                required="this process as its only writer",
                given=f"{other.writer} ({other.what}) has taken over" if other else "its lock was removed",
                fix="let that one go on, or end it and start this one again; nothing was overwritten",
            )

    def _is_mine(self) -> bool:
        if holder_of(self.path) == self.me:
            return True
        # Removed by hand, or with the folder's other files: made again, unless another is faster.
        with contextlib.suppress(OSError):
            return not self.path.exists() and self._make()
        return False

    def _make(self) -> bool:
        draft = self.path.with_name(f"{self.path.name}.{self.me.writer.token}")
        content = json.dumps(self.me.to_json()).encode()
        try:
            write_synced(draft, content, os.O_TRUNC)
            try:
                os.link(draft, self.path)
            except FileExistsError:
                # Over NFS a link can be made and its answer be lost.
                return draft.stat().st_nlink == 2
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                try:
                    write_synced(self.path, content, os.O_EXCL)
                except FileExistsError:
                    return False
            return True
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()

    def _wait_or_refuse(self) -> None:
        """Returns when the lock is free, or was taken from a dead holder."""
        holder, first = holder_of(self.path), touched(self.path)
        alive = None if holder is None else holder.writer.lives()
        if first is None:
            return
        if alive:
            assert holder is not None
            raise self._refusal(holder, None)
        if alive is None:
            # Of another machine, or not yet written: only its being touched shows that it is held.
            quiet = age_of(self.path)
            if quiet is not None and quiet < STALE_AFTER_SECONDS:
                logger.warning(
                    f"{self.folder}: {holder.writer if holder else 'somebody'} held it {quiet:.0f} s ago; "
                    f"waiting up to {STALE_AFTER_SECONDS - quiet:.0f} s for a sign of life"
                )
            while quiet is not None and quiet < STALE_AFTER_SECONDS:
                time.sleep(_POLL_SECONDS)
                if touched(self.path) != first or holder_of(self.path) != holder:
                    if (now := holder_of(self.path)) is None:
                        return
                    if now.writer.lives() is not False:
                        raise self._refusal(now, age_of(self.path))
                    return
                quiet = age_of(self.path)
        self._take_over(holder)

    def _take_over(self, dead: Holder | None) -> None:
        aside = self.path.with_name(f"{self.path.name}.{self.me.writer.token}.stale")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if (found := holder_of(aside)) != dead:
            # Another process took over a moment ago: what was renamed is its lock.
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)
            aside.unlink()
            assert found is None or found.writer != self.me.writer
            return
        aside.unlink()
        who = f"{dead.writer} ({dead.what}, since {dead.since})" if dead else "a writer that left no name"
        logger.warning(f"{self.folder}: taken over from {who}, which no longer runs")

    def _refusal(self, holder: Holder, age: float | None) -> CheckpointError:
        seen = "" if age is None else f", last seen {age:.0f} s ago"
        return CheckpointError(
            str(self.folder),
            required="one writer at a time",
            given=f"{holder.writer} ({holder.what}, since {holder.since}{seen}) writes to it",
            fix=f"wait until it has ended, end it (kill {holder.writer.pid}), or {self.fix}",
        )

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            # A full disk or a network that is away: the next one may succeed.
            with contextlib.suppress(OSError):
                if holder_of(self.path) == self.me:
                    os.utime(self.path)
