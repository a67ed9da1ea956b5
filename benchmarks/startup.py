"""How long a command takes to begin: imports, a dry run, a first step beside transformers' Trainer.

    python -m benchmarks.startup             on this machine, the bundled demo model
    python -m benchmarks.startup --quick     one round, to see that it runs
    python -m benchmarks.startup --beside ../older   another checkout's entry point as a further contestant

Every start is a process of its own; contestants take turns. A run is ended once it has said that its first
step is done. Processor time stands beside wall time, which other processes on the machine disturb.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import RESULTS, Row, hardware, ratio, spread, write_results
from nemo_pi.cli.parser import Parser
from nemo_pi.machine import cpu_kind, cpuinfo

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "demo" / "model"
TOKENS = 1024
"""Length of the one sample of a step."""
IMPORTS, DRY_RUN, OURS = "import torch, transformers", "dry run", "run to its first step"
COLD = "the same, backends not raced before"
TRAINER, OLDER = "transformers Trainer to its first step", "older checkout's run to its first step"
_FIRST_STEP = re.compile(rb"\b1/1000\b|first step done")


@dataclass(frozen=True)
class Start:
    """What one start took."""

    wall: float
    """Seconds until it was ready."""
    cpu: float
    """Processor seconds of the process and those it waited for."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, help="starts of each contestant (default 5)")
    parser.add_argument("--beside", type=Path, help="another checkout, to race its entry point")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures, prints and writes the result files."""
    args = parse(arguments)
    rounds = args.rounds or (1 if args.quick else 5)
    machine = hardware()
    print(f"startup: about {1 if args.quick else 5} min.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        commands = contestants(prepare(Path(folder)), Path(folder), args.beside)
        absent = warm_up(commands, Path(folder))
        taken = race(commands, rounds, Path(folder))
    notes = [
        f"each a process of its own with {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s); contestants "
        f"alternate, medians of {rounds} with quartiles after a first start of each that does not count",
        f"model: {MODEL.name} of demo/ (3.7 million parameters), one sample of {TOKENS} tokens a step, 512 "
        f"to {TOKENS} tokens by Position Interpolation; ours with TensorBoard and all checks before training",
        f"processor: {processor()}; ratios are taken within rounds, of processor time",
        *absent,
    ]
    return write_results(
        "startup-quick" if args.quick else "startup",
        machine,
        table(taken),
        verdict(taken),
        notes=notes,
        raw={name: [vars(one) for one in starts] for name, starts in taken.items()},
        folder=args.results,
    )


def prepare(folder: Path) -> Path:
    """The sample's text as indexed tokens; their prefix."""
    text = folder / "text.jsonl"
    text.write_text('{"text": "' + "It was the best of times. " * TOKENS + '"}\n')
    script = ROOT / "examples" / "preprocess_data.py"
    command = [sys.executable, str(script), f"--input={text}", "--tokenizer-library=huggingface"]
    command += [f"--tokenizer-model={MODEL}", f"--output-prefix={folder / 'tokens'}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "tokens_text_document"


def contestants(prefix: Path, folder: Path, beside: Path | None) -> dict[str, list[str]]:
    """Name → command line. Those that train say so after their first step, and would go on to 1,000."""
    python = sys.executable
    overrides = [
        "model=demo",
        f"restore_from_path={MODEL}",
        f"model.tokenizer.model={MODEL}",
        f"model.data.data_prefix=[{prefix}]",
        "model.data.splits_string='1,0,0'",
        f"model.max_position_embeddings={TOKENS}",
        f"model.pos_scaling_factor={TOKENS / 512}",
        "trainer.max_steps=1000",
        "trainer.limit_val_batches=0",
        "exp_manager.resume_if_exists=false",
        "exp_manager.use_datetime_version=true",
        f"exp_manager.exp_dir={folder}/runs",
    ]
    ours = [python, str(ROOT / "examples" / "extend_context.py"), *overrides]
    commands = {
        IMPORTS: [python, "-c", IMPORTS],
        DRY_RUN: [*ours, "dry_run=true"],
        OURS: ours,
        COLD: ["env", "NEMO_PI_CACHE=0", *ours],
        TRAINER: [python, "-m", "benchmarks.training.first_step", str(MODEL), str(TOKENS)],
    }
    if beside is not None:
        commands[OLDER] = [python, str(beside.resolve() / "examples" / "extend_context.py"), *overrides]
    return commands


def start(command: Sequence[str], folder: Path) -> Start:
    """Starts a command and waits until it ends, or has done its first step.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    ours = [Path(word).parents[1] for word in command if word.endswith("extend_context.py")]
    checkout = ours[0] if ours else ROOT
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    said, ready = b"", None
    while chunk := os.read(process.stdout.fileno(), 1 << 16):
        said += chunk
        if ready is None and _FIRST_STEP.search(said):
            ready = time.perf_counter() - began
            process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if ready is None and process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{said[-2000:].decode(errors='replace')}")
    wall = time.perf_counter() - began if ready is None else ready
    return Start(wall, usage.ru_utime + usage.ru_stime)


def warm_up(commands: dict[str, list[str]], folder: Path) -> list[str]:
    """Starts all once, so that the disk's cache and compiled modules are there for each; drops the Trainer
    where it cannot run.

    Returns:
        Notes about who was dropped.
    """
    notes = []
    for name in list(commands):
        try:
            start(commands[name], folder)
        except RuntimeError as error:
            if name != TRAINER:
                raise
            del commands[name]
            notes.append(f"{name} did not take part: {str(error).strip().splitlines()[-1]}")
    return notes


def race(commands: dict[str, list[str]], rounds: int, folder: Path) -> dict[str, list[Start]]:
    """Starts all of them in turn, each round beginning with another one."""
    names = list(commands)
    taken: dict[str, list[Start]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(start(commands[name], folder))
    return taken


def table(taken: dict[str, list[Start]]) -> list[Row]:
    """One row a contestant."""
    imports = [one.cpu for one in taken[IMPORTS]]
    return [
        {
            "start": name,
            "wall s": spread(one.wall for one in starts).text(),
            "CPU s": spread(one.cpu for one in starts).text(),
            "of the imports": ratio([one.cpu for one in starts], imports).text(),
        }
        for name, starts in taken.items()
    ]


def verdict(taken: dict[str, list[Start]]) -> str:
    """Who was ahead, in processor time."""
    cpu = {name: [one.cpu for one in starts] for name, starts in taken.items()}
    words = [
        f"A dry run takes {ratio(cpu[DRY_RUN], cpu[IMPORTS]).text()} times the imports",
    ]
    if TRAINER in cpu:
        words.append(f"a first step {ratio(cpu[OURS], cpu[TRAINER]).text()} times the Trainer's")
    if OLDER in cpu:
        words.append(f"a first step {ratio(cpu[OURS], cpu[OLDER]).text()} times the older checkout's")
        words.append(f"{ratio(cpu[COLD], cpu[OLDER]).text()} where backends race first")
    return ", ".join(words) + "."


def processor() -> str:
    """The kind of this processor, as the kernel names it."""
    found = cpuinfo()
    if "model name" not in found:
        return "unknown"
    kind = cpu_kind()
    named = f" ({kind})" if kind.startswith("Zen") else ""
    return f"{found['model name']}, family {found['cpu family']} model {found['model']}{named}"


if __name__ == "__main__":
    main()
