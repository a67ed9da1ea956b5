"""Rotary kernels side by side, forward and backward, as a share of the speed of a plain copy.

    python -m benchmarks.rope                    on this CPU, 1k to 16k tokens
    python -m benchmarks.rope --device cuda      on one GPU in bf16, 4k to 128k tokens
    python -m benchmarks.rope --quick            a few seconds, to see that it runs

Two jobs: q and k by themselves, and q and k inside the output of a fused QKV projection, back to the gradient
of that output. Contestants must agree before their times count; they run in turns with the copy.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import RESULTS, alternate, copy_work, hardware, timed, write_results
from benchmarks.rotary.contestants import CONTESTANTS, OURS, NotHere
from benchmarks.rotary.report import Measured, draw, table, verdict
from benchmarks.rotary.tasks import SHAPES, Inputs, Rotate, Task, in_projection, separate

COPY = "copy"
TASKS = (separate, in_projection)


@dataclass
class Field:
    """Who takes part, and what has to be said about those who do not."""

    rotates: dict[str, Rotate]
    absent: dict[str, str]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 tokens, two rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens of the one row")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, help="default: 9, 5 from 16k tokens on a CPU")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def lengths(args: argparse.Namespace) -> list[int]:
    """Tokens to measure at."""
    if args.quick:
        return [256]
    default = (4, 8, 16, 32, 64, 128) if args.device == "cuda" else (1, 4, 16)
    return args.lengths or [1024 * k for k in default]


def rounds(args: argparse.Namespace, tokens: int) -> int:
    """Measured rounds."""
    if args.quick:
        return 2
    return args.rounds or (5 if args.device == "cpu" and tokens >= 16_384 else 9)


def field(inputs: Inputs, names: Sequence[str]) -> Field:
    """Sorts contestants into those who can take part here and those who cannot."""
    found = Field({}, {})
    for name in names:
        try:
            found.rotates[name] = CONTESTANTS[name](inputs)
        except NotHere as reason:
            found.absent[name] = str(reason)
    return found


def check_same_work(inputs: Inputs, rotates: dict[str, Rotate]) -> None:
    """Raises AssertionError if a contestant's rotated q or k differs from the reference's."""
    q, k = inputs.heads(inputs.shape.q_heads), inputs.heads(inputs.shape.k_heads)
    expected = CONTESTANTS["nemo_pi reference"](inputs)(q, k)
    # transformers and Liger-Kernel round cosines and sines to bf16; nobody is held to more than that.
    tolerance = 1e-5 if inputs.dtype is torch.float32 else 4e-2
    for name, rotate in rotates.items():
        for given, right in zip(rotate(q.clone(), k.clone()), expected, strict=True):
            off = (given - right).abs().max().item()
            assert off <= tolerance, f"{name} is off by {off:.1e}"


def repeated(work: Callable[[], object], times: int) -> Callable[[], object]:
    """`work`, that many times."""

    def all_of_it() -> None:
        for _ in range(times):
            work()

    return all_of_it


def measure(inputs: Inputs, task: Task, rotates: dict[str, Rotate], args: argparse.Namespace) -> Measured:
    """Times every contestant and the copy in turns; seconds are those of one forward and backward."""
    # On a GPU a single call is too short to time apart from its launch.
    times = 10 if inputs.device == "cuda" else 1
    works = {name: task.once(rotate) for name, rotate in rotates.items()}
    works[COPY] = copy_work(int(task.moves * inputs.query_key_bytes), inputs.device)
    first = {name: timed(work) for name, work in works.items()}
    seconds = alternate(
        {name: repeated(work, times) for name, work in works.items()}, rounds(args, inputs.tokens), warmup=1
    )
    per_call = {name: [value / times for value in values] for name, values in seconds.items()}
    return Measured(
        inputs.shape.name, inputs.tokens, task.name, task.moves * inputs.query_key_bytes, per_call, first
    )


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    args = parse(arguments)
    machine = hardware(args.device)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    measured: list[Measured] = []
    absent: dict[str, str] = {}
    for tokens in lengths(args):
        for name in args.shapes:
            inputs = Inputs(SHAPES[name], tokens, args.device, dtype)
            who = field(inputs, args.contestants)
            absent |= who.absent
            check_same_work(inputs, who.rotates)
            for task in TASKS:
                measured.append(measure(inputs, task(inputs), who.rotates, args))
    ours = OURS[args.device]
    notes = [f"{name} did not take part: {reason}." for name, reason in absent.items()]
    notes.append(f"Forward and backward of one row in {str(dtype).removeprefix('torch.')}.")
    return write_results(
        "rope-quick" if args.quick else "rope",
        machine,
        table(measured, ours),
        verdict(measured, ours),
        notes=notes,
        raw=[vars(one) for one in measured],
        plot=partial(draw, measured, machine.name),
        folder=args.results,
    )


if __name__ == "__main__":
    main()
