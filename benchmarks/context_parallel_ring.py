"""Context-parallel attention by our all-gather of keys and values, and by a ring, at 2 and 4 ranks.

    python -m benchmarks.context_parallel_ring             on this CPU, 2,048 to 8,192 tokens
    python -m benchmarks.context_parallel_ring --quick     a few seconds, to see that it runs

Each rank is a process of its own on gloo, with one thread. All ways get the same zig-zag shards; before any
is timed, its outputs and gradients are compared with one rank's attention to the whole row. The third way
gathers as ours does, but keeps no output and log-sum-exp: it attends once more in the backward pass, as ours
has to where PyTorch hands out no log-sum-exp (sliding windows, GPUs).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.multiprocessing as mp

from benchmarks.context_parallel.measuring import AGAIN, OURS, RING, Job, Measured, measure_on_rank
from benchmarks.context_parallel.report import combine, raw, table, verdict
from benchmarks.harness import RESULTS, hardware, write_results
from nemo_pi.cli.parser import Parser

HEADS = (8, 2, 32)
"""Query heads, key/value heads, head dim."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 tokens and two rounds")
    parser.add_argument("--tokens", nargs="+", type=int, help="lengths of a row (default 2048 4096 8192)")
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4], help="context-parallel ranks")
    parser.add_argument("--rounds", type=int, help="measured runs of each way (default 7)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures, prints and writes the result files."""
    args = parse(arguments)
    lengths = tuple(args.tokens or ((256,) if args.quick else (2048, 4096, 8192)))
    rounds = args.rounds or (2 if args.quick else 7)
    torch.set_num_threads(1)
    machine = hardware()
    print(f"context_parallel_ring: about {1 if args.quick else 3} min.", flush=True)
    found: dict[int, dict[int, dict[str, Measured]]] = {}
    errors = []
    for ranks in args.ranks:
        print(f"{ranks} ranks: rows of {', '.join(map(str, lengths))} tokens ...", flush=True)
        found[ranks], error = _measure(Job(ranks, lengths, rounds, HEADS))
        errors.append(error)
    notes = [
        f"one attention, forward and backward, one row, fp32: {HEADS[0]} query and {HEADS[1]} key/value "
        f"heads of {HEADS[2]}; one thread a rank, gloo within one machine; ways alternate, medians of "
        f"{rounds} rounds with quartiles",
        "ms: until the last rank is done; CPU ms: of the busiest rank, without waiting; sent: what a rank "
        "wrote, by the kernel's count; memory: beyond what the process held before",
        f"largest difference from one rank's attention, outputs and gradients: {max(errors):.1e} of the "
        "largest value",
    ]
    return write_results(
        "context-parallel-ring-quick" if args.quick else "context-parallel-ring",
        machine,
        table(found),
        verdict(found),
        notes=notes,
        raw=raw(found),
        folder=args.results,
    )


def _measure(job: Job) -> tuple[dict[int, dict[str, Measured]], float]:
    """What was measured per length and way, and the largest difference from one rank's attention."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(measure_on_rank, (job, folder), nprocs=job.ranks, start_method="fork")
        files = [Path(folder, f"{rank}.json").read_text(encoding="utf-8") for rank in range(job.ranks)]
    ranks = [json.loads(text) for text in files]
    found = {
        length: {
            way: combine([Measured(**one["found"][str(length)][way]) for one in ranks])
            for way in (OURS, RING, AGAIN)
        }
        for length in job.lengths
    }
    return found, max(float(one["error"]) for one in ranks)


if __name__ == "__main__":
    main()
