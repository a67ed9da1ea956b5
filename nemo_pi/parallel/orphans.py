"""Ranks whose launcher is gone: a torchrun that is killed outright leaves them running, and saving on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from nemo_pi.processes import start_of

POLL_SECONDS = 1.0
ORPHANED = 1
"""Exit status of a rank that ended because its launcher was gone and it had nothing to save."""

# What torchrun sets for each rank, and does not have itself (or has of an outer torchrun, with other values).
_OF_A_RANK = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "MASTER_PORT")
_watched: list[Callable[[str], None]] = []


def launcher_pid() -> int | None:
    """The process that started this rank and its neighbours; None where there is none that could be missed.

    A rank that was started by hand may outlive its shell: that is what nohup is for. Slurm ends the processes
    of a step itself.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        pid: int | None = os.getppid()
        # A script may stand between torchrun and the rank.
        while pid is not None and pid > 1 and _is_part_of_rank(pid):
            pid = _parent_of(pid)
    elif "LOCAL_RANK" in os.environ and "RANK" not in os.environ:  # Lightning's: the first rank starts them
        pid = os.getppid() if os.environ["LOCAL_RANK"] != "0" else None
    else:
        return None
    return pid if pid is not None and pid > 1 else None


def watch_launcher(gone: Callable[[str], None] | None = None) -> None:
    """Calls `gone` with a sentence, from a thread, as soon as the launcher no longer runs.

    By default the process ends there and then, as it is right where nothing is to be saved. A later call only
    replaces what is done. prctl's PR_SET_PDEATHSIG would be quicker, and wrong: it asks for the thread that
    started the process, and launchers may start ranks from one that ends before them.
    """
    first = not _watched
    _watched[:] = [gone or _end]
    pid = launcher_pid() if first else None
    if pid is not None:
        threading.Thread(
            target=_watch, args=(pid, start_of(pid)), name="nemo_pi-launcher", daemon=True
        ).start()


def _watch(pid: int, start: int | None) -> None:
    pause = threading.Event()
    while start_of(pid) == start is not None:
        pause.wait(POLL_SECONDS)
    _watched[0](f"the launcher (process {pid}) is gone")


def _end(why: str) -> None:
    print(f"nemo_pi: {why}: this rank ends", file=sys.stderr, flush=True)
    os._exit(ORPHANED)


def _is_part_of_rank(pid: int) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return all(f"{name}={os.environ.get(name)}".encode() in environment for name in _OF_A_RANK)


def _parent_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])
