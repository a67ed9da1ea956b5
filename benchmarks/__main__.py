"""All benchmarks of this CPU, one after the other: python -m benchmarks (make bench).

Each says beforehand how long it will take, prints a table and who was ahead, and writes dated files into
benchmarks/results. One that fails is reported at the end and does not keep the others from running.

    python -m benchmarks --quick      the smallest sizes of all, to see that they run
    python -m benchmarks rope growth  some of them
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.training.session import ROOT

MINUTES = {
    "rope": 4,
    "loss_memory": 8,
    "memory_estimate": 8,
    "longest_window": 10,
    "growth": 6,
    "train_step": 15,
    "context_parallel_ring": 3,
    "profile_step": 5,
    "startup": 4,
    "import_memory": 4,
    "evaluation_speed": 6,
}
"""Benchmark → minutes on two cores of an AMD EPYC that do nothing else."""


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The command line; what is not known here is handed on to every benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(MINUTES)}; default: all")
    given, passed_on = parser.parse_known_args(arguments)
    unknown = [name for name in given.names if name not in MINUTES]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(MINUTES)}")
    return given, passed_on


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs them; the number of those that failed."""
    given, passed_on = parse(arguments)
    names = given.names or list(MINUTES)
    if "--quick" not in passed_on:
        listed = ", ".join(f"{name} {MINUTES[name]}" for name in names)
        print(f"About {sum(MINUTES[name] for name in names)} min on two idle cores: {listed}.", flush=True)
    failed = []
    for name in names:
        started = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{name}", *passed_on]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
        print(f"{name}: {(time.monotonic() - started) / 60:.1f} min.\n", flush=True)
    print(f"Failed: {', '.join(failed)}." if failed else "All benchmarks ran.", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
