"""Where the time of a training step goes, nemo_pi's engine beside the plain transformers loop.

    python -m benchmarks.profile_step                    on this CPU
    python -m benchmarks.profile_step --device cuda      Llama-7B's shape in bf16 on one GPU
    python -m benchmarks.profile_step --quick            a few seconds, to see that it runs

Shares are of the profiled step (torch.profiler, self times). The useful matrix products, 6 operations for
each weight and token, are held against the speed of large ones, the best that any of the processes measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Row, hardware, write_results
from benchmarks.training.estimate import announce, gemm_flops_per_second, loading_seconds, steps_seconds
from benchmarks.training.figures import Bars, draw_bars
from benchmarks.training.job import Job
from benchmarks.training.material import make_material
from benchmarks.training.profiling import GEMM, KINDS
from benchmarks.training.session import ContestantError, Session
from benchmarks.training.sizes import SIZES
from nemo_pi.cli.parser import Parser
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape

OURS, PLAIN = "engine", "transformers"
PROFILING = "benchmarks.training.profiling"
# Steps that the profile of one contestant takes.
_STEPS = 11
Found = Mapping[tuple[str, int], Mapping[str, Mapping[str, Any]]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES)
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens of a sample, for all --sizes")
    parser.add_argument("--contestants", nargs="+", default=[PLAIN, OURS], help="that have a make_step")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def cells(args: argparse.Namespace) -> list[tuple[str, int]]:
    """Sizes and lengths."""
    if args.quick:
        return [("2x64", 64)]
    if args.sizes or args.lengths:
        sizes, lengths = args.sizes or ["4x256"], args.lengths or [1024, 4096]
        return [(size, length) for size in sizes for length in lengths]
    if args.device == "cuda":
        return [("llama-7b", 4096), ("llama-7b", 32768)]
    return [("4x256", 1024), ("4x256", 4096), ("8x512", 1024)]


def useful_gemm_flops(shape: ModelShape, tokens: int) -> float:
    """Operations of the matrix products of a step: 2 per weight forward, 4 backward; nothing recomputed."""
    layer = family_of(shape).layer_products(shape)
    return 6.0 * tokens * (shape.num_layers * layer + shape.hidden_size * shape.vocab_size)


def table(found: Found) -> list[Row]:
    """One row per size, length and contestant: milliseconds of a step, then shares of it."""
    rows: list[Row] = []
    top = peak(found)
    for (size, length), profiles in found.items():
        for name, one in profiles.items():
            work = useful_gemm_flops(SIZES[size].shape, length)
            total = sum(one["kinds"].values())
            row = {"model": size, "tokens": length, "contestant": name}
            row["ms/step"] = f"{1e3 * one['seconds']:.1f}"
            row |= {kind: f"{one['kinds'][kind] / total:.1%}" for kind in KINDS}
            row["products' speed ÷ peak"] = _share(work, one["kinds"][GEMM], top)
            row["useful products ÷ peak"] = _share(work, one["seconds"], top)
            rows.append(row)
    return rows


def peak(found: Found) -> float:
    """Operations per second of large matrix products: the best of all processes, on one machine."""
    return max(float(one["gemm_peak"]) for profiles in found.values() for one in profiles.values())


def _share(work: float, seconds: float, top: float) -> str:
    """Part of the measured peak, if this work took these seconds."""
    return f"{work / seconds / top:.2f}" if seconds else "none"


def verdict(found: Found) -> str:
    """One line: how steps compare, and on what most time is lost."""
    parts = []
    for (size, length), profiles in found.items():
        ranked = sorted(profiles, key=lambda name: profiles[name]["seconds"])
        fastest, slowest = (profiles[name] for name in (ranked[0], ranked[-1]))
        lost = {kind: slowest["kinds"][kind] - fastest["kinds"][kind] for kind in KINDS}
        most = max(lost, key=lambda kind: lost[kind])
        parts.append(
            f"{size} at {length:,} tokens: {ranked[0]}, {slowest['seconds'] / fastest['seconds']:.2f}x "
            f"{ranked[-1]}, which loses most on {most} ({1e3 * lost[most]:+.1f} ms)"
        )
    return "Ahead: " + "; ".join(parts) + "."


def longest_operators(found: Found) -> list[str]:
    """Notes: the five longest operators of each profile."""
    notes = []
    for (size, length), profiles in found.items():
        for name, one in profiles.items():
            longest = ", ".join(f"{op} {1e3 * s:.1f} ms ({calls}x)" for op, _, s, calls in one["longest"][:5])
            notes.append(f"{size} at {length:,}, {name}: {longest}")
    return notes


def draw(found: Found, path: Path) -> Path:
    """Milliseconds of a profiled step by kind, a panel for each size and length."""
    panels = []
    for (size, length), profiles in found.items():
        kinds = [kind for kind in KINDS if any(one["kinds"][kind] > 0 for one in profiles.values())]
        values = {name: [1e3 * one["kinds"][kind] for kind in kinds] for name, one in profiles.items()}
        panels.append(Bars(f"{size}, {length:,} tokens: ms", kinds, values))
    return draw_bars(path, "Where a training step's time goes", "self times under torch.profiler", panels)


def profiled(jobs: Mapping[str, Job]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Profiles and failures, one process after the other: one that ends would slow the next one's steps."""
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name, job in jobs.items():
        with _kept(failed, name), Session(job, PROFILING) as session:
            session.wait_until_ready()
            found[name] = session.ask("step")
    return found, list(failed.values())


@contextmanager
def _kept(failed: dict[str, str], name: str) -> Iterator[None]:
    """Keeps why a contestant failed, instead of failing with it."""
    try:
        yield
    except ContestantError as error:
        failed[name] = " ".join(str(error).split())[-500:]


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Profiles and writes the results."""
    args = parse(arguments)
    wanted, machine = cells(args), hardware(args.device)
    speed = gemm_flops_per_second() if args.device == "cpu" else 4e14
    loading = loading_seconds(1) * (1 + len(args.contestants) * len(wanted))
    steps = sum(len(args.contestants) * steps_seconds(SIZES[s], n, _STEPS, speed) for s, n in wanted)
    announce("profile_step", steps + loading)
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    notes: list[str] = []
    written: list[Path] = []
    for number, (size, length) in enumerate(wanted, start=1):
        with tempfile.TemporaryDirectory() as folder:
            make_material(size, Path(folder), [length])
            target = max(length, SIZES[size].window)
            recompute = args.device == "cuda"
            jobs = {n: Job(n, folder, size, length, target, args.device, recompute) for n in args.contestants}
            profiles, failed = profiled(jobs)
        notes += [f"Failed: {size} at {length:,} tokens: {why}" for why in failed]
        if profiles:
            found[size, length] = profiles
        if found:
            remaining = len(wanted) - number
            written = write_results(
                "profile_step-quick" if args.quick else "profile_step",
                machine,
                table(found),
                verdict(found),
                notes=[f"The peak is {peak(found) / 1e9:.0f} GFLOP/s.", *longest_operators(found), *notes],
                raw={f"{size} {length}": profiles for (size, length), profiles in found.items()},
                plot=partial(draw, found),
                folder=args.results,
                unfinished=f"{remaining} more sizes and lengths" if remaining else "",
            )
    if not found:
        raise SystemExit("\n".join(notes))
    return written


if __name__ == "__main__":
    main()
