"""One contestant's process: python -m benchmarks.training.worker JOB."""

from __future__ import annotations

import importlib
import os
import sys
from typing import IO, Any

import torch

from benchmarks.training.job import Job

MODULES = {
    "nemo_pi": "nemo_pi_run",
    "engine": "nemo_pi_engine",
    "transformers": "transformers_loop",
    "transformers-compiled": "transformers_loop",
    "liger": "transformers_loop",
    "trainer": "transformers_trainer",
    "litgpt": "litgpt_loop",
    "litgpt-compiled": "litgpt_loop",
}
"""Contestant → module of benchmarks.training.contestants."""


def own_channel() -> IO[str]:
    """What was standard output, kept for messages; whatever libraries print goes to standard error."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return channel


def contestant(job: Job) -> Any:
    """The contestant's module, with all that it imports."""
    return importlib.import_module(f"benchmarks.training.contestants.{MODULES[job.contestant]}")


def main() -> None:
    """Races until told to stop."""
    channel = own_channel()
    job = Job.from_json(sys.argv[1])
    torch.manual_seed(0)
    module = contestant(job)
    from benchmarks.training.pacer import Pacer

    pacer = Pacer(channel)
    try:
        module.run(job, pacer)
    except torch.OutOfMemoryError:
        pacer.send({"event": "failed", "reason": "out of memory"})


if __name__ == "__main__":
    main()
