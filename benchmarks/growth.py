"""Time and memory per token as the window grows: samples as long as the window, and PoSE's, which stay short.

    python -m benchmarks.growth                    on this CPU: full length to 16k tokens, PoSE to 1M
    python -m benchmarks.growth --device cuda      Llama-7B's shape in bf16 on one GPU: full length to 64k
    python -m benchmarks.growth --quick            a few seconds, to see that it runs

Both are nemo_pi's engine under the same YAML; PoSE (arXiv 2309.10400) is the key model.data.pose.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import RESULTS, hardware, write_results
from benchmarks.training.estimate import announce, gemm_flops_per_second, loading_seconds, steps_seconds
from benchmarks.training.growth_report import FULL, POSE, draw, table, verdict
from benchmarks.training.job import Job
from benchmarks.training.material import make_material
from benchmarks.training.race import Outcome, race
from benchmarks.training.sizes import SIZES

K = 1024
SHORT, LONG_ROUNDS = 4 * K, 2
"""Full lengths up to the first race with PoSE; longer ones take so many measured steps."""


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
ON_CPU = Plan("4x256", (1 * K, 2 * K, 4 * K, 8 * K, 16 * K), tuple(K * 4**n for n in range(1, 6)), 9)
ON_GPU = Plan("llama-7b", tuple(K * 2**n for n in range(1, 7)), tuple(K * 4**n for n in range(1, 6)), 2)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy model and two rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", nargs="+", type=int, help="windows trained at full length")
    parser.add_argument("--rounds", type=int, help="measured steps of PoSE (default 9)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def plan(args: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    base = QUICK if args.quick else ON_GPU if args.device == "cuda" else ON_CPU
    return Plan(base.size, tuple(args.full or base.full), base.pose, args.rounds or base.rounds)


def measure(wanted: Plan, folder: Path, device: str) -> dict[str, dict[int, Outcome]]:
    """Races all targets of PoSE with each other and with short full lengths; long ones run by themselves."""
    window = SIZES[wanted.size].window
    on_gpu = device == "cuda"
    job = partial(Job, "engine", folder=str(folder), size=wanted.size, device=device, recompute=on_gpu)
    jobs = {f"{POSE} {n}": job(length=window, target_window=n, pose=True) for n in wanted.pose}
    full = {f"{FULL} {n}": job(length=n, target_window=max(window, n)) for n in wanted.full}
    short = {name: one for name, one in full.items() if one.length <= SHORT}
    outcomes = race({**jobs, **short}, wanted.rounds, 2, in_turn=on_gpu)
    for name in (name for name in full if name not in short):
        print(f"{name} tokens ...", flush=True)
        outcomes |= race({name: full[name]}, min(wanted.rounds, LONG_ROUNDS), 1, in_turn=on_gpu)
    return {
        way: {n: outcomes[f"{way} {n}"] for n in windows}
        for way, windows in ((FULL, wanted.full), (POSE, wanted.pose))
    }


def estimate(wanted: Plan, device: str) -> float:
    """Seconds for all of it."""
    size = SIZES[wanted.size]
    speed = gemm_flops_per_second() if device == "cpu" else 4e14
    turns = 5 if device == "cuda" else 1
    lengths = [size.window] * len(wanted.pose) + list(wanted.full)
    rounds = [wanted.rounds + 2 if length <= SHORT else LONG_ROUNDS + 1 for length in lengths]
    steps = (steps_seconds(size, n, turns * count, speed) for n, count in zip(lengths, rounds, strict=True))
    alone = sum(length > SHORT for length in wanted.full)
    return sum(steps) + loading_seconds(len(lengths) - alone) + (alone + 1) * loading_seconds(1)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    args = parse(arguments)
    wanted = plan(args)
    window = SIZES[wanted.size].window
    machine = hardware(args.device)
    announce("growth", estimate(wanted, args.device))
    with tempfile.TemporaryDirectory() as scratch:
        make_material(wanted.size, Path(scratch), [window, *wanted.full])
        found = measure(wanted, Path(scratch), args.device)
    return write_results(
        "growth-quick" if args.quick else "growth",
        machine,
        table(found, window),
        verdict(found, window),
        notes=[
            f"{wanted.size}, a batch of one sample, {'bf16 mixed' if args.device == 'cuda' else 'fp32'}; "
            "times are medians with quartiles, peaks are of whole processes.",
            f"Full length was measured to {max(wanted.full):,} tokens"
            + ("." if args.device == "cuda" else ", which is what fits into minutes on a CPU."),
        ],
        raw={way: {str(n): vars(one) for n, one in outcomes.items()} for way, outcomes in found.items()},
        plot=partial(draw, found, window),
        folder=args.results,
    )


if __name__ == "__main__":
    main()
