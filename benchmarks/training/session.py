"""The parent's side of a contestant: its process, and one step at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training.job import Job

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = ROOT / ".bench"
"""Folders named after contestants, each put before everything else that this contestant imports."""
WORKER = "benchmarks.training.worker"


class ContestantError(RuntimeError):
    """The contestant could not go on; the message says why."""


def contestant_path(name: str) -> str:
    """PYTHONPATH of a contestant: its own packages, if it has any, then the repository."""
    own = OWN_PACKAGES / name.removesuffix("-compiled")
    found = [str(own)] if own.is_dir() else []
    return os.pathsep.join([*found, str(ROOT), os.environ.get("PYTHONPATH", "")])


def environment(job: Job) -> dict[str, str]:
    """A contestant's environment. One that trains on the CPU sees no GPU, or libraries would take it."""
    hidden = {} if job.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    path = contestant_path(job.contestant)
    return {**os.environ, **hidden, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


class Session:
    """A contestant that has been started; it loads while others do, and waits.

    Attributes:
        losses: of all steps taken.
        imports_mib: memory before anything was loaded, once it is ready.
        peak_mib: the most memory any step took, all of the process.
    """

    def __init__(self, job: Job, module: str = WORKER) -> None:
        self.job = job
        self.losses: list[float] = []
        self.imports_mib = self.peak_mib = 0.0
        self._log = tempfile.TemporaryFile(  # noqa: SIM115, closed with the session
            mode="w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, job.to_json()],
            cwd=ROOT,
            env=environment(job),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def wait_until_ready(self) -> None:
        """Returns when the contestant could start its first step.

        Raises:
            ContestantError: it could not be loaded.
        """
        self.imports_mib = float(self.receive()["imports_mib"])

    def step(self) -> float:
        """Lets it take one step; returns the seconds, by its own clock.

        Raises:
            ContestantError: it did not survive the step.
        """
        message = self.ask("step")
        self.losses.append(float(message["loss"]))
        self.peak_mib = max(self.peak_mib, float(message["peak_mib"]))
        return float(message["seconds"])

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command and returns the answer.

        Raises:
            ContestantError: as receive.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._error("it ended") from None
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            ContestantError: there is none, or it says that the contestant failed.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._error(f"it ended with status {self._process.wait()}")
        message: dict[str, Any] = json.loads(line)
        if message.get("event") == "failed":
            raise ContestantError(f"{self.job.contestant}: {message['reason']}")
        return message

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):  # an unsent command
                stream.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _error(self, what: str) -> ContestantError:
        self._log.seek(0)
        return ContestantError(f"{self.job.contestant}: {what}\n{self._log.read()[-3000:]}")
