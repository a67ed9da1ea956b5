"""A GPU's first minutes (make gpu): what runs, parity with the CPU, speed, and memory beside the plan's.

    python -m benchmarks.gpu                     on the first GPU, about 8 minutes on an H100
    python -m benchmarks.gpu --dry-run           what would be tried, and for how long at most
    python -m benchmarks.gpu --device cpu        the same parts in small, to see that they run
    python -m benchmarks.gpu --only parity rotary

Every part is a process of its own: one that fails or hangs is reported, and the others go on. The result file
is written anew after each of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import Part, parts
from benchmarks.gpu.report import notes, rows, verdict
from benchmarks.harness import RESULTS, hardware, write_results
from nemo_pi.cli.parser import Parser
from nemo_pi.units import plural

ROOT = Path(__file__).resolve().parents[2]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = [part.name for part in (*parts(small=False), *parts(small=True))]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part starts later (default 8)")
    parser.add_argument("--only", nargs="+", choices=list(dict.fromkeys(known)), help="some of the parts")
    parser.add_argument("--dry-run", action="store_true", help="list the parts, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def chosen(args: argparse.Namespace) -> list[Part]:
    """The parts that are run."""
    every = parts(small=args.device == "cpu")
    return [part for part in every if args.only is None or part.name in args.only]


def run_part(part: Part, device: str, seconds: float) -> list[dict[str, Any]]:
    """What a part's process has found until it ended, or was ended.

    Args:
        part: one of parts(), the small ones for a CPU.
        device: cuda or cpu, of the whole run.
        seconds: after which the process is ended.
    """
    small = device == "cpu"
    gpus = torch.cuda.device_count()
    if device == "cuda" and gpus < part.ranks:
        return [_lost(part, f"it takes {part.ranks} GPUs, and there are {gpus}")]
    device = part.device or device
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(part.ranks)]
    command = [
        *(sys.executable, *(launcher if part.ranks > 1 else [])),
        *("-m", "benchmarks.gpu.worker", part.name, device, "small" if small else "whole"),
    ]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    # A session of its own, so that ranks end with their launcher.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **hidden, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
        ended = f"its process ended with status {process.returncode}: {_last_line(err)}"
    except subprocess.TimeoutExpired:
        process.terminate()
        out, err = process.communicate()
        ended = f"it was ended after {seconds:.0f} s"
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    missing = len(part.cases) - len(found)
    return [*found, *([_lost(part, ended, missing)] if missing else [])]


def _lost(part: Part, why: str, missing: int | None = None) -> dict[str, Any]:
    cases = part.cases if missing is None else part.cases[-missing:]
    return {"part": part.name, "case": ", ".join(case.name for case in cases), "ok": False, "reason": why}


def _last_line(text: str) -> str:
    return next(reversed([line for line in text.splitlines() if line.strip()]), "no message")[:300]


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Tries everything and writes what was found; the files."""
    args = parse(arguments)
    wanted = chosen(args)
    for part in wanted:
        print(
            f"{part.name:18} {part.what}: {plural(len(part.cases), 'case')}, {part.seconds} s at most",
            flush=True,
        )
    if args.dry_run:
        return []
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("This machine has no GPU that torch can use: --device cpu tries the parts in small.")
    end, found, written = time.monotonic() + 60 * args.minutes, [], []
    for number, part in enumerate(wanted):
        left = end - time.monotonic()
        if left < 10:
            found.append(_lost(part, f"{args.minutes:g} minutes were over"))
        else:
            # On a CPU of unknown speed alone the limit is that of the whole run.
            limit = left if args.device == "cpu" else min(left, float(part.seconds))
            found += run_part(part, args.device, limit)
        rest = len(wanted) - number - 1
        written = write_results(
            "gpu" if args.device == "cuda" else "gpu-small",
            hardware(args.device),
            rows(found),
            verdict(found),
            notes=notes(found),
            raw=found,
            folder=args.results,
            unfinished=f"{rest} more parts" if rest else "",
        )
    return written


if __name__ == "__main__":
    main()
