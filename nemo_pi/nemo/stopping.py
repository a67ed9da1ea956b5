"""Requests to stop a run: signals, and a launcher that is gone. The run saves its step and ends."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import Any

from nemo_pi.parallel import orphans

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
"""What Slurm (--signal), Kubernetes and a terminal send ahead of the end."""
# A process that was started with these ignored is meant to outlive its terminal (nohup, `command &`).
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)
# torchrun hands a terminal's Ctrl-C on to ranks that have had it from the terminal already.
_INTERRUPTS_THAT_WAIT = 2


class StopRequests:
    """Whether this rank was asked to stop, by whatever."""

    def __init__(self) -> None:
        self.asked: str | None = None
        """By what; None: it was not."""
        self._previous: dict[int, Any] = {}
        self._interrupts = 0

    def listen(self) -> None:
        """Takes signals from now on, in place of Lightning, and notices a launcher's end.

        Lightning's handler raises on the ranks that heard the signal while the others go on to their next
        collective operation; this one lets all ranks finish the same step.
        """
        for number in STOP_SIGNALS:
            if number in _MAY_BE_IGNORED and signal.getsignal(number) == signal.SIG_IGN:
                continue
            # Called again behind a stage, it must not take Lightning's handler for what was there before.
            self._previous.setdefault(number, signal.signal(number, self._on_signal))
        orphans.watch_launcher(self._on_orphaned)

    def give_back(self) -> None:
        """Leaves signals to whoever had them before."""
        for number, previous in self._previous.items():
            # Lightning has restored its own by now, unless training ended early.
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, previous)
        self._previous.clear()
        if orphans.launcher_pid() is not None:
            orphans.watch_launcher()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        if number != signal.SIGINT:
            return
        self._interrupts += 1
        if self._interrupts > _INTERRUPTS_THAT_WAIT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _on_orphaned(self, why: str) -> None:
        logger.warning(f"{why}: saving this step and ending")
        self.asked = why
