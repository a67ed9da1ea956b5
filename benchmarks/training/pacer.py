"""A contestant's side of the race: it takes one step when told to, and says how that went.

Messages are lines of JSON. A framework that owns its loop calls `stepped` from its callback: what lies
between two calls, data and bookkeeping included, is the time of a step.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import IO, Any

from benchmarks.harness import synchronize
from benchmarks.training.memory import peak_mib, reset_peak, resident_mib


class Pacer:
    """Waits for the parent's word before every step.

    Args:
        channel: where messages go; commands come through standard input.
    """

    def __init__(self, channel: IO[str]) -> None:
        self.channel = channel
        self._started = 0.0
        self._imports_mib = resident_mib()

    def ready(self) -> bool:
        """Everything is loaded. Waits for the first step; False: stop without one."""
        reset_peak()
        self.send({"event": "ready", "imports_mib": self._imports_mib})
        return self._wait()

    def stepped(self, loss: float) -> bool:
        """A step with this loss is done. Waits for the next; False: stop."""
        synchronize()
        seconds = time.perf_counter() - self._started
        self.send({"event": "step", "seconds": seconds, "loss": float(loss), "peak_mib": peak_mib()})
        return self._wait()

    def run(self, step: Callable[[], float]) -> None:
        """For contestants without a loop of their own: `step` trains once and returns the loss."""
        going = self.ready()
        while going:
            going = self.stepped(step())

    def send(self, message: dict[str, Any]) -> None:
        """Sends one message."""
        self.channel.write(json.dumps(message) + "\n")
        self.channel.flush()

    def _wait(self) -> bool:
        going = sys.stdin.readline().strip() == "step"  # end of file: the parent is gone
        self._started = time.perf_counter()
        return going
