"""The plan's memory estimate beside the peak that a training step really reaches.

    python -m benchmarks.memory_estimate                 on this CPU: three sizes, and other settings
    python -m benchmarks.memory_estimate --device cuda   bf16 on one GPU
    python -m benchmarks.memory_estimate --quick         a few seconds, to see that it runs

The estimate counts tensors, so it is compared with what torch's allocator has handed out at most: by CUDA's
statistics, on a CPU by the profiler's. The process holds more: libraries, and on a CPU the gaps between freed
blocks that glibc's heap cannot reuse. That is the last column: growth of resident memory over two steps,
after a toy model has made the libraries allocate what they keep. Every figure has a process of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import RESULTS, hardware, write_results
from benchmarks.training.estimate import announce, gemm_flops_per_second, loading_seconds, steps_seconds
from benchmarks.training.figures import Bars, draw_bars
from benchmarks.training.memory import MIB, peak_mib, reset_peak, resident_mib
from benchmarks.training.sizes import SIZES, yaml_keys
from nemo_pi.cli.parser import Parser
from nemo_pi.config.load import resolve
from nemo_pi.config.memory import estimate_memory
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.model.options import ALL_BUT_ATTENTION

K = 1024
ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.15
"""How far the estimate may be off."""
RATIO = "estimate / measured"


@dataclass(frozen=True)
class Case:
    """One training run."""

    size: str
    """Name in benchmarks.training.sizes."""
    length: int
    """Tokens of a sample."""
    loss: str = "auto"
    """model.loss."""
    recompute: bool = False
    """Whether whole layers are computed again in the backward pass."""
    precision: str = "32"
    """trainer.precision."""
    tile: int | None = None
    """model.mlp_chunk_size."""
    adapters: str | None = None
    """Of model.peft's target_modules, at rank 16; None trains all weights."""
    spared: bool = False
    """Whether all of a layer but its attention is."""
    offload: str | None = None
    """model.activations_offload."""


def cases(args: argparse.Namespace) -> list[Case]:
    """What is measured."""
    if args.quick:
        return [Case("2x64", 2 * K)]
    if args.device == "cuda":
        sizes = [("4x256", 16 * K), ("8x512", 16 * K), ("llama-7b", 4 * K)]
        return [Case(size, length, precision="bf16") for size, length in sizes] + [
            Case("llama-7b", 16 * K, recompute=True, precision="bf16")
        ]
    sizes = [("4x256", 1 * K), ("4x256", 4 * K), ("8x512", 2 * K)]
    plain = [Case(size, length) for size, length in sizes]
    # Where 16-bit products are emulated, the larger size would take half an hour.
    half = ("8x512", 2 * K) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ("4x256", 1 * K)
    return [
        *plain,
        Case("4x256", 4 * K, loss="full"),
        Case("8x512", 2 * K, recompute=True),
        Case("8x512", 2 * K, adapters="all"),
        Case("8x512", 2 * K, adapters="attention"),
        Case(*half, precision="bf16"),
        Case(*half, recompute=True, precision="bf16"),
        Case("4x256", 4 * K, tile=512),
        Case("8x512", 2 * K, recompute=True, tile=512),
        Case("8x512", 2 * K, recompute=True, offload="disk"),
        Case("4x256", 4 * K, spared=True),
        Case("8x512", 2 * K, spared=True, tile=512, offload="disk"),
    ]


def run_of(case: Case) -> ResolvedRun:
    """The run as its YAML would resolve."""
    size = SIZES[case.size]
    model: dict[str, Any] = {
        **yaml_keys(size.shape),
        "original_max_position_embeddings": min(size.window, case.length),
        "max_position_embeddings": case.length,
        "loss": case.loss,
        "mlp_chunk_size": case.tile,
        "activations_offload": case.offload,
        "global_batch_size": 1,
        "micro_batch_size": 1,
        "data": {"data_prefix": ["none"]},
    }
    if case.spared:
        model |= {
            "activations_checkpoint_granularity": "selective",
            "activations_checkpoint_modules": [ALL_BUT_ATTENTION],
        }
    elif case.recompute:
        model |= {
            "activations_checkpoint_granularity": "full",
            "activations_checkpoint_method": "uniform",
            "activations_checkpoint_num_layers": 1,
        }
    if case.adapters is not None:
        model["peft"] = {"lora_tuning": {"adapter_dim": 16, "target_modules": [case.adapters]}}
    trainer = {"max_steps": 100, "precision": case.precision}
    # A dry run, because adapters would ask for a checkpoint to stand beside.
    return resolve({"model": model, "trainer": trainer, "dry_run": True}, world_size=1, summary=None)


def train(run: ResolvedRun, steps: int) -> None:
    """Some steps of the run on tokens that it makes up; everything is freed at the end."""
    from nemo_pi.engine.engine import MegatronEngine
    from nemo_pi.engine.optimizer import prepare_to_load
    from nemo_pi.parallel import groups

    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    engine = MegatronEngine(run.engine)
    engine.start_training()
    prepare_to_load(engine.optimizer)  # so that the first step has its moments already
    length = run.training_length
    tokens = torch.randint(0, run.shape.vocab_size, (1, length + 1))
    batch = {
        "tokens": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "loss_mask": torch.ones(1, length),
        "position_ids": torch.arange(length)[None],
    }
    for _ in range(steps):
        engine.forward_backward(batch)
        engine.step()


def allocated(case: Case) -> float:
    """MiB of tensors at the fullest moment of a step, temporary ones within operations included."""
    if torch.cuda.is_available():
        reset_peak()
        train(run_of(case), 1)
        return peak_mib()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(run_of(case), 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return max(event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]") / MIB


def resident(case: Case) -> float:
    """MiB by which two steps raise the process's peak above what it held (on a GPU: the allocator's)."""
    from nemo_pi.parallel.cpu_memory import keep_freed_memory

    train(run_of(replace(case, size="2x64", length=64)), 2)
    gc.collect()
    if not torch.cuda.is_available():
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        keep_freed_memory()  # as training does
    before = resident_mib()
    reset_peak()
    train(run_of(case), 2)
    return peak_mib() - before


def estimate(wanted: Sequence[Case], device: str) -> float:
    """Seconds for all of it: three steps and two processes for each case."""
    speed = gemm_flops_per_second() if device == "cpu" else 4e14
    steps = sum(
        (4 if one.recompute else 3) * steps_seconds(SIZES[one.size], one.length, 1, speed) for one in wanted
    )
    return steps + 2 * len(wanted) * loading_seconds(1)


def in_own_process(measure: str, case: Case) -> float:
    """allocated(case) or resident(case), in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.memory_estimate", measure, json.dumps(asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: status {done.returncode}\n{done.stderr[-3000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def row(case: Case) -> dict[str, Any]:
    """A line of the table; memory in MiB."""
    estimate = estimate_memory(run_of(case))
    measured = in_own_process("allocated", case)
    return {
        "model": case.size,
        "tokens": case.length,
        "precision": case.precision,
        "loss": case.loss,
        "adapters": case.adapters or "none",
        "recompute": tricks(case),
        **{name: round(value / MIB) for name, value in asdict(estimate).items()},
        "estimate": round(estimate.total / MIB),
        "measured": round(measured),
        RATIO: round(estimate.total / MIB / measured, 3),
        "resident": round(in_own_process("resident", case)),
    }


def tricks(case: Case) -> str:
    """What is done to keep less, in a word or two."""
    what = ["all but attention" if case.spared else "full" if case.recompute else "none"]
    what += [] if case.tile is None else ["MLP tiled"]
    what += [] if case.offload is None else [f"on {case.offload}"]
    return ", ".join(what)


def attempt(case: Case) -> tuple[list[dict[str, Any]], str]:
    """The line of a case, or why there is none."""
    try:
        return [row(case)], ""
    except RuntimeError as error:
        return [], f"Not measured: {' '.join(str(error).split())[-500:]}"


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """One line: how often estimate and measurement agree, and which of them is ahead where they do not."""
    off = [line for line in rows if abs(line[RATIO] - 1) > TOLERANCE]
    agree = f"{len(rows) - len(off)} of {len(rows)} estimates are within {TOLERANCE:.0%} of the measured peak"
    ratios = [line[RATIO] for line in rows]
    return f"{agree} (from {min(ratios):.2f} to {max(ratios):.2f} of it)." if rows else f"{agree}."


def draw(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Estimate, tensors and growth of the process of every run."""
    labels = [
        f"{line['model']}, {line['tokens']:,} tokens, {line['precision'].replace('32', 'fp32')}"
        + (f", loss {line['loss']}" if line["loss"] != "auto" else "")
        # Rows of before adapters have no such column.
        + (f", adapters on {line['adapters']}" if line.get("adapters", "none") != "none" else "")
        + (f", {line['recompute'].removeprefix('none, ')}" if line["recompute"] != "none" else "")
        for line in rows
    ]
    names = ("estimate", "measured", "resident")
    bars = Bars("MiB", labels, {name: [float(line[name]) for line in rows] for name in names})
    subtitle = "a training step; measured: tensors; resident: growth of the process"
    return draw_bars(path, "The plan's memory estimate beside the peak", subtitle, [bars] if rows else [])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    parser.add_argument("one", nargs="*", help=argparse.SUPPRESS)  # what in_own_process asks of its process
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    args = parse(arguments)
    if args.one:
        measure, case = args.one
        print({"allocated": allocated, "resident": resident}[measure](Case(**json.loads(case))))
        return []
    wanted = cases(args)
    announce("memory_estimate", estimate(wanted, args.device))
    rows: list[dict[str, Any]] = []
    notes = ["Memory in MiB. measured: tensors. resident: growth of the process, allocator's gaps included."]
    written: list[Path] = []
    for number, case in enumerate(wanted, start=1):
        found, why = attempt(case)
        rows += found
        notes += [why] if why else []
        if rows:
            written = write_results(
                "memory_estimate-quick" if args.quick else "memory_estimate",
                hardware(args.device),
                rows,
                verdict(rows),
                notes=notes,
                plot=partial(draw, rows),
                folder=args.results,
                unfinished=f"{len(wanted) - number} more runs" if number < len(wanted) else "",
            )
    if not rows:
        raise SystemExit("\n".join(notes))
    return written


if __name__ == "__main__":
    main()
