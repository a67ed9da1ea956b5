"""A training step of nemo_pi beside what its users would use instead, on the same weights and tokens.

    python -m benchmarks.train_step                    on this CPU
    python -m benchmarks.train_step --device cuda      Llama-7B's shape in bf16 on one GPU
    python -m benchmarks.train_step --quick            a few seconds, to see that it runs

nemo_pi runs as its users run it (Lightning's Trainer, indexed data); `engine` is the same without Lightning.
Every contestant has a process of its own. They must agree on the loss before their times count. The result
files are written anew after every point; a run that was stopped goes on with --resume on the same day.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import RESULTS, Hardware, earlier_today, hardware, write_results
from benchmarks.training.backends import backends_note
from benchmarks.training.checks import disqualify_other_work
from benchmarks.training.estimate import announce, gemm_flops_per_second, loading_seconds, steps_seconds
from benchmarks.training.job import Job
from benchmarks.training.material import make_material
from benchmarks.training.race import Outcome, missing_package, race
from benchmarks.training.sizes import SIZES
from benchmarks.training.step_report import OURS, Results, draw, facts, table, verdict
from benchmarks.training.worker import MODULES
from nemo_pi.cli.parser import Parser
from nemo_pi.engine.throughput import training_flops_per_token

DEFAULT = ("transformers", OURS, "trainer", "litgpt")
# On a CPU, by the operations of a step at most: measured and unmeasured steps.
_STEPS = {1e11: (7, 2), 2.5e11: (4, 1), 6e11: (3, 1), float("inf"): (2, 1)}


@dataclass(frozen=True)
class Cell:
    """One size at one length."""

    size: str
    length: int
    rounds: int
    warmup: int


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy model and two rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: what fits into eight minutes")
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens of a sample, for all --sizes")
    parser.add_argument("--contestants", nargs="+", choices=MODULES, help=f"default: {' '.join(DEFAULT)}")
    parser.add_argument("--rounds", type=int, help="default: 7, fewer where a step is long")
    parser.add_argument("--resume", action="store_true", help="keep the points that were measured today")
    parser.add_argument("--no-recompute", action="store_true", help="on a GPU, keep all activations")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def cells(args: argparse.Namespace) -> list[Cell]:
    """What is measured."""
    if args.quick:
        wanted = [("2x64", 64)]
    elif args.sizes or args.lengths:
        sizes, lengths = args.sizes or ["4x256"], args.lengths or [1024, 4096]
        wanted = [(size, length) for size in sizes for length in lengths]
    elif args.device == "cuda":
        wanted = [("llama-7b", 1024 * k) for k in (4, 8, 16, 32, 64)]
    else:
        wanted = [("4x256", 1024 * k) for k in (1, 4, 16)] + [("8x512", 1024 * k) for k in (1, 4)]
    return [Cell(size, length, *_rounds(args, size, length)) for size, length in wanted]


def _rounds(args: argparse.Namespace, size: str, length: int) -> tuple[int, int]:
    """Measured and unmeasured steps: as many as fit into eight minutes in all, but two at least."""
    if args.device == "cuda":
        return args.rounds or 2, 2
    flops = training_flops_per_token(SIZES[size].shape, length) * length
    default, warmup = next(steps for most, steps in _STEPS.items() if flops <= most)
    return args.rounds or (2 if args.quick else default), warmup


def contestants(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Who takes part, and notes on who cannot. Whoever is named on the command line must be able to."""
    wanted = args.contestants or [*DEFAULT, *(["liger"] if args.device == "cuda" else [])]
    lacking = {name: package for name in wanted if (package := missing_package(name))}
    if args.contestants and lacking:
        raise SystemExit(f"not installed: {lacking}; see docs/performance.md (make bench-packages)")
    notes = [f"{name} did not take part: {package} is not installed." for name, package in lacking.items()]
    return [name for name in wanted if name not in lacking], notes


def measure(
    cell: Cell, names: Sequence[str], folder: Path, args: argparse.Namespace
) -> tuple[dict[str, Outcome], list[str]]:
    """Races all contestants; whoever did other work does not count. Then notes on what nemo_pi computed with.

    nemo_pi's backends are measured before, while nothing else runs: contestants load side by side.
    """
    on_gpu = args.device == "cuda"
    job = partial(
        Job,
        folder=str(folder),
        size=cell.size,
        length=cell.length,
        target_window=max(cell.length, SIZES[cell.size].window),
        device=args.device,
        recompute=on_gpu and not args.no_recompute,
    )
    notes = [] if on_gpu or not {OURS, "engine"} & set(names) else [backends_note(job(OURS))]
    outcomes = race({name: job(name) for name in names}, cell.rounds, cell.warmup, in_turn=on_gpu)
    first, later = disqualify_other_work(outcomes, bf16=on_gpu)
    print(
        f"{cell.size} at {cell.length:,} tokens: losses differ by {first:.1e} at step 0, {later:.1e} later.",
        flush=True,
    )
    return outcomes, notes


def estimate(wanted: Sequence[Cell], names: Sequence[str], device: str) -> float:
    """Seconds for all of it."""
    peak = gemm_flops_per_second() if device == "cpu" else 4e14
    turns = 5 if device == "cuda" else 1
    racing = sum(
        len(names) * steps_seconds(SIZES[one.size], one.length, turns * one.rounds + one.warmup, peak)
        for one in wanted
    )
    return racing + len(wanted) * loading_seconds(len(names)) + loading_seconds(1)


def kept(args: argparse.Namespace, machine: Hardware, names: Sequence[str]) -> Results:
    """The points at which all of `names` ran today, or failed: they need not be measured again."""
    raw = (earlier_today(_name(args), machine, args.results) or {}) if args.resume else {}
    found = {}
    for point, outcomes in raw.items():
        size, length = point.split()
        if set(names) <= set(outcomes):
            found[size, int(length)] = {name: Outcome(**one) for name, one in outcomes.items()}
    return found


def write(
    args: argparse.Namespace, machine: Hardware, results: Results, notes: Sequence[str], remaining: int
) -> list[Path]:
    """Writes what has been measured until now."""
    return write_results(
        _name(args),
        machine,
        table(results),
        verdict(results),
        notes=[*notes, *facts(args.device, results)],
        raw={f"{size} {n}": {k: vars(v) for k, v in r.items()} for (size, n), r in results.items()},
        plot=partial(draw, results),
        folder=args.results,
        unfinished=f"{remaining} more sizes and lengths" if remaining else "",
    )


def _name(args: argparse.Namespace) -> str:
    return "train_step-quick" if args.quick else "train_step"


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    args = parse(arguments)
    names, notes = contestants(args)
    machine = hardware(args.device)
    results = dict(kept(args, machine, names))
    wanted = [cell for cell in cells(args) if (cell.size, cell.length) not in results]
    announce("train_step", estimate(wanted, names, args.device))
    with tempfile.TemporaryDirectory() as scratch:
        for size in dict.fromkeys(cell.size for cell in wanted):
            make_material(size, Path(scratch) / size, [one.length for one in wanted if one.size == size])
        for number, cell in enumerate(wanted, start=1):
            folder = Path(scratch) / cell.size
            results[cell.size, cell.length], more = measure(cell, names, folder, args)
            notes += more
            if number < len(wanted):
                write(args, machine, results, notes, len(wanted) - number)
    return write(args, machine, results, notes, remaining=0)


if __name__ == "__main__":
    main()
