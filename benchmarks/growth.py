"""Time and memory per token as the window grows: samples as long as the window, and PoSE's, which stay short.

    python -m benchmarks.growth                    on this CPU: full length to 32k tokens, PoSE to 1M
    python -m benchmarks.growth --to 65536         the same to 64k tokens: three minutes more
    python -m benchmarks.growth --device cuda      Llama-7B's shape in bf16 on one GPU: full length to 64k
    python -m benchmarks.growth --quick            a few seconds, to see that it runs

Both are nemo_pi's engine under the same YAML; PoSE (arXiv 2309.10400) is the key model.data.pose. The result
files are written anew after every long length.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import RESULTS, Hardware, hardware, write_results
from benchmarks.training.estimate import announce, gemm_flops_per_second, loading_seconds, steps_seconds
from benchmarks.training.growth_report import FULL, POSE, Found, draw, failures, table, verdict
from benchmarks.training.job import Job
from benchmarks.training.material import make_material
from benchmarks.training.race import Outcome, race
from benchmarks.training.sizes import SIZES
from nemo_pi.cli.parser import Parser

K = 1024
SHORT = 4 * K
"""Full lengths up to this one race with PoSE; longer ones run by themselves."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    size: str
    """Its window is the length of PoSE's samples."""
    full: tuple[int, ...]
    """Windows trained at full length."""
    pose: tuple[int, ...]
    """Target windows of PoSE."""
    rounds: int
    """Measured steps; fewer at long full lengths."""


QUICK = Plan("2x64", (64,), (1 * K,), 2)
ON_CPU = Plan("4x256", tuple(K * 2**n for n in range(6)), tuple(K * 4**n for n in range(1, 6)), 9)
ON_GPU = Plan("llama-7b", tuple(K * 2**n for n in range(1, 7)), tuple(K * 4**n for n in range(1, 6)), 2)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy model and two rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--full", nargs="+", type=int, help="windows trained at full length")
    chosen.add_argument("--to", type=int, help="the longest of them, from 1024 on in powers of two")
    parser.add_argument("--rounds", type=int, help="measured steps of PoSE (default 9)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def plan(args: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    base = QUICK if args.quick else ON_GPU if args.device == "cuda" else ON_CPU
    to = [K * 2**n for n in range(32) if args.to and K * 2**n <= args.to]
    return Plan(base.size, tuple(args.full or to or base.full), base.pose, args.rounds or base.rounds)


def long_steps(wanted: Plan, length: int, device: str) -> tuple[int, int]:
    """Measured and unmeasured steps of a long full length; where a step takes a minute, one has to do."""
    if device == "cpu" and length > 16 * K:
        return 1, 0
    return min(wanted.rounds, 2), 1


def measure(wanted: Plan, folder: Path, device: str) -> Iterator[tuple[Found, int]]:
    """Races all targets of PoSE with each other and with short full lengths; long ones run by themselves.

    Yields:
        What has been measured until now, and how many lengths remain.
    """
    window = SIZES[wanted.size].window
    on_gpu = device == "cuda"
    job = partial(Job, "engine", folder=str(folder), size=wanted.size, device=device, recompute=on_gpu)
    jobs = {f"{POSE} {n}": job(length=window, target_window=n, pose=True) for n in wanted.pose}
    full = {n: job(length=n, target_window=max(window, n)) for n in wanted.full}
    short = {f"{FULL} {n}": one for n, one in full.items() if n <= SHORT}
    long = sorted(n for n in full if n > SHORT)
    outcomes = race({**jobs, **short}, wanted.rounds, 2, in_turn=on_gpu)
    yield _sorted(outcomes, wanted), len(long)
    for number, n in enumerate(long, start=1):
        print(f"{FULL}, {n:,} tokens ...", flush=True)
        outcomes |= race({f"{FULL} {n}": full[n]}, *long_steps(wanted, n, device), in_turn=on_gpu)
        yield _sorted(outcomes, wanted), len(long) - number


def _sorted(outcomes: Mapping[str, Outcome], wanted: Plan) -> Found:
    return {
        way: {n: outcomes[f"{way} {n}"] for n in windows if f"{way} {n}" in outcomes}
        for way, windows in ((FULL, wanted.full), (POSE, wanted.pose))
    }


def estimate(wanted: Plan, device: str) -> float:
    """Seconds for all of it."""
    size = SIZES[wanted.size]
    speed = gemm_flops_per_second() if device == "cpu" else 4e14
    turns = 5 if device == "cuda" else 1
    lengths = [size.window] * len(wanted.pose) + list(wanted.full)
    rounds = [wanted.rounds + 2 if n <= SHORT else sum(long_steps(wanted, n, device)) for n in lengths]
    steps = (steps_seconds(size, n, turns * count, speed) for n, count in zip(lengths, rounds, strict=True))
    alone = sum(length > SHORT for length in wanted.full)
    return sum(steps) + loading_seconds(len(lengths) - alone) + (alone + 1) * loading_seconds(1)


def write(
    args: argparse.Namespace, wanted: Plan, machine: Hardware, found: Found, remaining: int
) -> list[Path]:
    """Writes what has been measured until now."""
    window = SIZES[wanted.size].window
    on_gpu = args.device == "cuda"
    return write_results(
        "growth-quick" if args.quick else "growth",
        machine,
        table(found, window),
        verdict(found, window),
        notes=[
            f"{wanted.size}, a batch of one sample, {'bf16 mixed' if on_gpu else 'fp32'}; "
            "times are medians with quartiles, peaks are of whole processes.",
            f"Full length was measured to {max(found[FULL], default=0):,} tokens"
            + ("; beyond 16,384 it took one step, the first." if _cut(wanted, args.device) else "."),
            *failures(found),
        ],
        raw={way: {str(n): vars(one) for n, one in outcomes.items()} for way, outcomes in found.items()},
        plot=partial(draw, found, window),
        folder=args.results,
        unfinished=f"{remaining} longer lengths" if remaining else "",
    )


def _cut(wanted: Plan, device: str) -> bool:
    return any(long_steps(wanted, length, device)[0] < 2 for length in wanted.full if length > SHORT)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    args = parse(arguments)
    wanted = plan(args)
    machine = hardware(args.device)
    announce("growth", estimate(wanted, args.device))
    written: list[Path] = []
    with tempfile.TemporaryDirectory() as scratch:
        make_material(wanted.size, Path(scratch), [SIZES[wanted.size].window, *wanted.full])
        for found, remaining in measure(wanted, Path(scratch), args.device):
            written = write(args, wanted, machine, found, remaining)
    return written


if __name__ == "__main__":
    main()
