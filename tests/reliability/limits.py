"""Calls in a process of their own, with what they took: seconds of computing, and memory on top of imports.

One process imports what is to be called, and a copy of it (a fork) makes each call: imports take seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WALL_SECONDS = 120
"""After which a call is ended. What is asserted is computing time, which other processes do not lengthen."""


@dataclass(frozen=True)
class Outcome:
    """How a call went."""

    error: str
    """Name of the exception's class; empty where it returned."""
    message: str
    """The exception's."""
    seconds: float
    """Processor time."""
    resident_mib: float
    """Memory touched, at the most."""
    virtual_mib: float
    """Memory asked for, at the most; files that are mapped count."""


class Nursery:
    """A process with the named modules imported, whose copies make calls."""

    def __init__(self, *modules: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.reliability.limits", *modules]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, function: str, *arguments: Any) -> Outcome:
        """Calls `module:function`, or `module:Class.function`, with arguments that JSON can hold."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, arguments]) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def _serve() -> None:
    """Reads calls and answers them, each by a copy of this process."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, json.dumps(_measured(*json.loads(line))).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            answer = stream.read()
        os.waitpid(child, 0)
        print(answer or json.dumps(_ended("ended by a signal")), flush=True)


def _ended(message: str) -> dict[str, Any]:
    return {"error": "killed", "message": message, "seconds": 0, "resident_mib": 0, "virtual_mib": 0}


def _measured(function: str, arguments: list[Any]) -> dict[str, Any]:
    signal.alarm(WALL_SECONDS)
    module, _, name = function.partition(":")
    called: Any = importlib.import_module(module)
    for part in name.split("."):
        called = getattr(called, part)
    before, started, error, message = memory(), time.process_time(), "", ""
    # Far more than any call may take: what runs away ends here instead of harming the machine.
    limit = (before["VmSize"] << 10) + (64 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    try:
        called(*arguments)
    except BaseException as caught:  # SystemExit, too, is an answer
        error, message = type(caught).__name__, str(caught)[:2000]
    after = memory()
    return {
        "error": error,
        "message": message,
        "seconds": time.process_time() - started,
        "resident_mib": (after["VmHWM"] - before["VmRSS"]) / 1024,
        "virtual_mib": (after["VmPeak"] - before["VmSize"]) / 1024,
    }


def memory() -> dict[str, int]:
    """KiB of this process, by their names in /proc."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[0].startswith("Vm")}


if __name__ == "__main__":
    _serve()
