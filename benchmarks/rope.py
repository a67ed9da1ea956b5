"""Rotary kernels side by side, forward and backward, as a share of the speed of a plain copy.

    python -m benchmarks.rope                    on this CPU, 1k to 16k tokens
    python -m benchmarks.rope --device cuda      on one GPU in bf16, 4k to 128k tokens
    python -m benchmarks.rope --quick            a few seconds, to see that it runs

Two jobs: q and k by themselves, and q and k inside the output of a fused QKV projection, back to the gradient
of that output. Contestants must agree before their times count; they run in turns with the copy. Whoever is
not installed, fails or differs is left out, with the reason. The result files are written anew after every
length.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import (
    RESULTS,
    Hardware,
    alternate,
    copy_work,
    hardware,
    reason,
    timed,
    write_results,
)
from benchmarks.rotary.contestants import CONTESTANTS, OURS, NotHere
from benchmarks.rotary.report import Measured, draw, table, verdict
from benchmarks.rotary.tasks import SHAPES, Inputs, Rotate, Task, in_projection, separate
from benchmarks.training.estimate import announce
from nemo_pi.cli.parser import Parser
from nemo_pi.parallel.cpu_memory import keep_freed_memory

COPY = "copy"
TASKS = (separate, in_projection)


@dataclass
class Field:
    """Who takes part, and what has to be said about those who do not."""

    rotates: dict[str, Rotate]
    absent: dict[str, str]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 tokens, two rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens of the one row")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, help="default: 9, on a CPU 7 from 4k tokens on, 3 from 16k on")
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
    default = 9 if args.device == "cuda" or tokens < 4096 else 7 if tokens < 16_384 else 3
    return args.rounds or default


def field(inputs: Inputs, names: Sequence[str]) -> Field:
    """Sorts contestants into those who can take part here, and do the work, and those who cannot."""
    found = Field({}, {})
    for name in names:
        try:
            rotate = CONTESTANTS[name](inputs)
            check_same_work(inputs, name, rotate)
            found.rotates[name] = rotate
        except NotHere as why:
            found.absent[name] = str(why)
        except Exception as error:  # whatever a library raises, the others go on
            found.absent[name] = reason(error)
    return found


def check_same_work(inputs: Inputs, name: str, rotate: Rotate) -> None:
    """Raises AssertionError if a contestant's rotated q or k differs from the reference's."""
    q, k = inputs.heads(inputs.shape.q_heads), inputs.heads(inputs.shape.k_heads)
    expected = CONTESTANTS["nemo_pi reference"](inputs)(q, k)
    # transformers and Liger-Kernel round cosines and sines to bf16; nobody is held to more than that.
    tolerance = 1e-5 if inputs.dtype is torch.float32 else 4e-2
    for given, right in zip(rotate(q.clone(), k.clone()), expected, strict=True):
        off = (given - right).abs().max().item()
        assert off <= tolerance, f"{name} is off by {off:.1e}"


def repeated(work: Callable[[], object], times: int) -> Callable[[], object]:
    """`work`, that many times."""

    def all_of_it() -> None:
        for _ in range(times):
            work()

    return all_of_it


def measure(inputs: Inputs, task: Task, who: Field, args: argparse.Namespace) -> Measured:
    """Times every contestant and the copy in turns; seconds are those of one forward and backward."""
    # On a GPU a single call is too short to time apart from its launch.
    times = 10 if inputs.device == "cuda" else 1
    works = {name: task.once(rotate) for name, rotate in who.rotates.items()}
    works[COPY] = copy_work(int(task.moves * inputs.query_key_bytes), inputs.device)
    first = {}
    for name, work in list(works.items()):
        try:
            first[name] = timed(work)
        except Exception as error:  # as above: in the backward pass, perhaps
            who.absent[name] = f"{task.name}, {inputs.tokens:,} tokens: {reason(error)}"
            del works[name]
    seconds = alternate(
        {name: repeated(work, times) for name, work in works.items()}, rounds(args, inputs.tokens), warmup=1
    )
    per_call = {name: [value / times for value in values] for name, values in seconds.items()}
    return Measured(
        inputs.shape.name, inputs.tokens, task.name, task.moves * inputs.query_key_bytes, per_call, first
    )


def estimate(args: argparse.Namespace) -> float:
    """Seconds for all of it, by bytes: eager operators move 2 GB/s on a CPU, on a GPU 1 TB/s."""
    on_gpu = args.device == "cuda"
    total = 0.0
    for tokens in lengths(args):
        for name in args.shapes:
            inputs = Inputs(SHAPES[name], tokens, args.device, torch.bfloat16 if on_gpu else torch.float32)
            calls = 10 * (rounds(args, tokens) + 2) if on_gpu else rounds(args, tokens) + 2
            moved = 8.7 * inputs.query_key_bytes * (len(args.contestants) - (0 if on_gpu else 5))
            total += calls * moved / (1e12 if on_gpu else 2e9) + 5  # random numbers, and compiling
    return total


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    args = parse(arguments)
    machine = hardware(args.device)
    announce("rope", estimate(args))
    if args.device == "cpu":
        keep_freed_memory()  # for all: a fresh page costs more than the rotation that writes it
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    measured: list[Measured] = []
    absent: dict[str, str] = {}
    written: list[Path] = []
    for number, tokens in enumerate(lengths(args), start=1):
        for name in args.shapes:
            inputs = Inputs(SHAPES[name], tokens, args.device, dtype)
            who = field(inputs, args.contestants)
            measured += [measure(inputs, task(inputs), who, args) for task in TASKS]
            absent |= who.absent
        written = write(args, machine, measured, absent, len(lengths(args)) - number)
    return written


def write(
    args: argparse.Namespace,
    machine: Hardware,
    measured: Sequence[Measured],
    absent: dict[str, str],
    remaining: int,
) -> list[Path]:
    """Writes what has been measured until now."""
    ours = OURS[args.device]
    dtype = "bfloat16" if args.device == "cuda" else "float32"
    return write_results(
        "rope-quick" if args.quick else "rope",
        machine,
        table(measured, ours),
        verdict(measured, ours),
        notes=[
            *(f"{name} did not take part: {why}." for name, why in absent.items()),
            f"Forward and backward of one row in {dtype}.",
            *(["Freed memory stays in the process, as in a run of nemo_pi."] if args.device == "cpu" else []),
        ],
        raw=[vars(one) for one in measured],
        plot=partial(draw, measured, machine.name),
        folder=args.results,
        unfinished=f"{remaining} longer lengths" if remaining else "",
    )


if __name__ == "__main__":
    main()
