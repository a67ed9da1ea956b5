"""Signs of life: which rank the others wait for, when one hangs.

A collective that times out only knows its neighbours: in a ring, that is mostly an innocent rank. So each
rank has a thread that tells the launcher's store every few seconds where its main thread is. A rank that
gives no sign of life is stopped, or its machine is gone; one whose main thread is not in a collective, while
the others are, is the one they wait for.

The process groups' own time-out ends the wait; with gloo it is an exception, which `explained` turns into a
sentence. NCCL's watchdog ends the process by itself (not tried on a GPU), so the sentence is printed a little
earlier, by the thread. Under `patient` ranks may take longer, as long as they give signs of life.
"""

from __future__ import annotations

import json
import linecache
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import torch.distributed as dist

from nemo_pi.errors import DistributedError

logger = logging.getLogger(__name__)

HUNG = 1
"""Exit status of a rank that gave up waiting for another."""
PATIENT_MINUTES = 60.0
"""How long ranks wait at least for one that saves, loads or exports."""
_KEY = "nemo_pi/liveness/{}"
# A line of Python in which a thread waits for other ranks, or for a GPU that does.
_WAITS = re.compile(
    r"\b(wait|wait_\w+|synchronize|item|tolist|barrier|broadcast\w*|all_\w+|reduce\w*|gather\w*|i?recv\w*"
    r"|i?send\w*|finish_grad_sync|start_param_sync)\("
)
_LOST = re.compile(
    r"[Tt]imed out|[Tt]imeout|Connection (closed|reset)|Broken pipe|Socket|NCCL|gloo", re.DOTALL
)
_watch: _Liveness | None = None


@dataclass(frozen=True)
class Report:
    """What a rank last said of itself."""

    beat: int
    """Signs of life so far."""
    waits: bool
    """Whether its main thread is in a collective, or in what waits for one."""
    place: str
    """Where its main thread is, as file:line (function)."""


def start(minutes: float) -> None:
    """Starts this rank's signs of life, and limits how long it waits for others in the world group.

    Nothing where there is one rank only. Call it when the process group is up, on every rank.
    """
    global _watch
    if not dist.is_initialized() or dist.get_world_size() == 1 or dist.get_backend() == "fake":
        return
    _set_timeout(minutes)
    if _watch is not None:
        _watch.stop()
    try:
        _watch = _Liveness(minutes * 60)
    except RuntimeError as error:
        # The run is worth more than a sentence at its end; nobody could be patient then.
        logger.warning(f"ranks cannot give signs of life ({error}): one that hangs will not be named")
        _watch = None
        _set_timeout(max(PATIENT_MINUTES, minutes))
        return
    _watch.thread.start()


def stop() -> None:
    """Ends this rank's signs of life."""
    global _watch
    if _watch is not None:
        _watch.stop()
    _watch = None


@contextmanager
def patient() -> Iterator[None]:
    """Lets ranks wait for each other for an hour at least, while one of them reads or writes alone."""
    if _watch is None:
        yield
        return
    _set_timeout(max(PATIENT_MINUTES, _watch.limit / 60))
    _watch.patient = True
    try:
        yield
    finally:
        if _watch is not None:
            _watch.patient = False
            _set_timeout(_watch.limit / 60)


def explained(error: BaseException) -> DistributedError | None:
    """What a failed collective comes down to, the rank that is missing; None: the error is another one."""
    if _watch is None or not isinstance(error, RuntimeError) or not _LOST.search(str(error)):
        return None
    _watch.gave_up = True
    return _watch.verdict(error)


def end(error: DistributedError) -> NoReturn:
    """Ends this rank with a sentence, at once: what Python does at its end could wait for others, too."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if _watch is not None and _watch.keeps_store:
        # The others ask the store that this process keeps; their wait ends with its own.
        time.sleep(_watch.silence + 3.0)
    os._exit(HUNG)


def _set_timeout(minutes: float) -> None:
    dist.distributed_c10d._set_pg_timeout(timedelta(minutes=minutes))


class _Liveness:
    """This rank's thread, and what it knows of the others."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.interval = min(5.0, limit / 10)
        # Long enough for a thread on a machine that has more to do than it can.
        self.silence = max(5.0, 2.5 * self.interval)
        self.patient = False
        self.gave_up = False
        # torchrun keeps it itself.
        self.keeps_store = dist.get_rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._main = threading.main_thread().ident
        self._done = threading.Event()
        self._seen: dict[int, tuple[int, float]] = {}
        self._warned = False
        self.thread = threading.Thread(target=self._run, name="nemo_pi-liveness", daemon=True)
        # A connection of its own: the process group's may be blocked by the main thread.
        self._store = dist.TCPStore(
            os.environ.get("MASTER_ADDR", "127.0.0.1"),
            int(os.environ.get("MASTER_PORT", "29500")),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(10.0, limit)),
        )
        self._say(0)

    def stop(self) -> None:
        """Ends the thread."""
        self._done.set()

    def _run(self) -> None:
        beat, where, since = 0, None, time.monotonic()
        while not self._done.wait(self.interval):
            beat += 1
            try:
                report, signature = self._say(beat)
                if signature != where:
                    where, since, self._warned = signature, time.monotonic(), False
                self._look_at_neighbour()
                if report.waits and time.monotonic() - since > 0.8 * self.limit and not self._warned:
                    self._warned = True
                    # It looks twice, seconds apart, and this thread must not fall silent meanwhile.
                    waited = time.monotonic() - since
                    threading.Thread(target=self._warn, args=(waited,), daemon=True).start()
            except RuntimeError:  # the launcher, and its store with it, is gone
                return

    def _say(self, beat: int) -> tuple[Report, Any]:
        report, signature = self._look(beat)
        self._store.set(_KEY.format(self.rank), json.dumps(vars(report)))
        return report, signature

    def _look(self, beat: int) -> tuple[Report, Any]:
        if self.gave_up:
            return Report(beat, True, "nowhere: it has given up waiting"), None
        frame = sys._current_frames().get(self._main or 0)
        if frame is None:
            return Report(beat, False, "nowhere"), None
        stack = list(_frames(frame))
        own = next((f for f in stack if "nemo_pi" in f.f_code.co_filename), frame)
        signature = tuple((id(f), f.f_lasti) for f in stack)
        return Report(beat, _is_waiting(stack), _place(own)), signature

    def _look_at_neighbour(self) -> None:
        """Ends this rank where the next one has stopped to give signs of life: no collective would return."""
        neighbour = (self.rank + 1) % self.world
        if self._silence(neighbour) > self.limit:
            end(self.verdict(None))

    def _silence(self, rank: int) -> float:
        """Seconds since another rank's count went up, by this rank's clock."""
        report, now = self.reports([rank]).get(rank), time.monotonic()
        beat = -1 if report is None else report.beat
        if rank not in self._seen or self._seen[rank][0] != beat:
            self._seen[rank] = (beat, now)
        return now - self._seen[rank][1]

    def reports(self, ranks: list[int]) -> dict[int, Report]:
        """What ranks last said; without those that have said nothing."""
        there = [rank for rank in ranks if self._store.check([_KEY.format(rank)])]
        if not there:
            return {}
        texts = self._store.multi_get([_KEY.format(rank) for rank in there])
        return {rank: Report(**json.loads(text)) for rank, text in zip(there, texts, strict=True)}

    def _warn(self, seconds: float) -> None:
        try:
            missing = self._missing()
        except RuntimeError:  # the store is gone: the time-out will tell
            return
        if missing:
            logger.warning(
                f"rank {self.rank} has waited {seconds:.0f} s for {_named(missing)} "
                f"(model.distributed_timeout_minutes={self.limit / 60:g} is the limit)"
            )

    def _missing(self) -> dict[int, str]:
        """{rank: what is known of it} of those that are not waiting for others."""
        others = [rank for rank in range(self.world) if rank != self.rank]
        before = self.reports(others)
        time.sleep(self.silence)
        after = self.reports(others)
        missing: dict[int, str] = {}
        for rank in others:
            report = after.get(rank)
            if report is None or (rank in before and report.beat <= before[rank].beat):
                missing[rank] = "no sign of life"
        if missing:
            return missing
        # Both times: a rank whose wait has just timed out is on its way to say so.
        return {
            rank: f"at {after[rank].place}"
            for rank in others
            if not after[rank].waits and not (rank in before and before[rank].waits)
        }

    def verdict(self, error: BaseException | None) -> DistributedError:
        """Which rank is missing, as an error for the user."""
        answer: list[dict[int, str]] = []

        def ask() -> None:
            try:
                answer.append(self._missing())
            except (RuntimeError, ValueError):
                return

        # The store is another process's: if that one is the missing one, it does not answer.
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(self.silence + 10)
        missing = answer[0] if answer else {}
        said = "" if error is None else f" ({str(error).splitlines()[0][:200]})"
        if missing:
            given = f"rank {self.rank} waits for {_named(missing)}"
        elif answer:
            given = f"every rank waits for another{said}"
        else:
            given = f"the launcher's store does not answer, nor does its process (often rank 0){said}"
        ranks = ", ".join(map(str, missing)) or "the other ranks"
        return DistributedError(
            f"rank {self.rank}",
            required=f"an answer of all ranks within model.distributed_timeout_minutes={self.limit / 60:g}",
            given=given,
            fix=f"look at the output and the machine of {'rank ' if missing else ''}{ranks}, then start "
            "again: the run goes on from its last checkpoint. Where a step rightly makes ranks wait for "
            "longer, raise model.distributed_timeout_minutes",
        )


def _named(missing: dict[int, str]) -> str:
    shown = [f"rank {rank} ({what})" for rank, what in list(missing.items())[:4]]
    more = len(missing) - len(shown)
    return " and ".join(shown) + (f" and {more} more" if more else "")


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """A thread's frames, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_waiting(stack: list[FrameType]) -> bool:
    if any("torch/distributed/distributed_c10d" in f.f_code.co_filename for f in stack):
        return True
    innermost = stack[0]
    line = linecache.getline(innermost.f_code.co_filename, innermost.f_lineno)
    return _WAITS.search(line) is not None


def _place(frame: FrameType) -> str:
    path = frame.f_code.co_filename.split("site-packages/")[-1]
    short = path[path.rfind("nemo_pi/") :] if "nemo_pi/" in path else path
    return f"{short}:{frame.f_lineno} ({frame.f_code.co_name})"
