"""How long a sample may be within so much memory: one optimizer step, whole processes, fp32 on a CPU.

    python -m benchmarks.longest_window            Llama's vocabulary, budgets of 2, 4 and 8 GiB
    python -m benchmarks.longest_window --quick    a toy model, to see that it runs

Each contestant trains one step on one sample at two lengths, in a process of its own for each. Its peak
(VmHWM, imports included) grows with the length along a line, since nobody makes a square of the sequence;
the line through both says what a budget holds. `--train` trains that length for the smallest budget where it
takes less than so many minutes. Speed is processor time, which other programs disturb less than the clock.

nemo_pi is measured plain and with each trick added to those before; transformers with gradient checkpointing,
and without; litgpt with it and with logits in chunks, as in its fine-tuning (`make bench-packages` installs
it). All have the same sizes, random weights and tokens, and AdamW; the others attend by SDPA.
Liger-Kernel's loss is a Triton kernel and runs on GPUs only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS, hardware, write_results
from benchmarks.training.estimate import announce
from benchmarks.training.memory import MIB, peak_mib, reset_peak
from benchmarks.training.session import OWN_PACKAGES
from nemo_pi.cli.parser import Parser

ROOT = Path(__file__).resolve().parents[1]
K = 1024
BUDGETS = (2, 4, 8)
"""GiB."""
FULL = {"activations_checkpoint_granularity": "full"}
SPARED = {
    "activations_checkpoint_granularity": "selective",
    "activations_checkpoint_modules": ["all_but_core_attn"],
}
TILED, ON_DISK = {"mlp_chunk_size": "auto"}, {"activations_offload": "disk"}
OURS: dict[str, dict[str, Any]] = {
    "nemo_pi": {},
    "nemo_pi, layers recomputed": FULL,
    "nemo_pi, recomputed, MLP tiled": FULL | TILED,
    "nemo_pi, recomputed, tiled, on disk": FULL | TILED | ON_DISK,
    "nemo_pi, attention spared, tiled, on disk": SPARED | TILED | ON_DISK,
}
TRANSFORMERS = {"transformers": False, "transformers, checkpointed": True}
"""Whether layers are recomputed."""
LITGPT = "litgpt, checkpointed"
THEIRS = (*TRANSFORMERS, LITGPT)


@dataclass(frozen=True)
class Point:
    """One step at one length."""

    mib: float
    """Peak of the whole process."""
    seconds: float
    """Processor time of the step."""


def sizes(quick: bool) -> dict[str, int]:
    """Of Llama's architecture, untied."""
    if quick:
        return {"layers": 2, "hidden": 64, "ffn": 176, "heads": 4, "vocab": 256}
    return {"layers": 4, "hidden": 256, "ffn": 688, "heads": 4, "vocab": 32000}


def step_of_ours(model: Mapping[str, int], length: int, changes: Mapping[str, Any]) -> Any:
    """A function that trains one step by nemo_pi's engine."""
    from nemo_pi.config.load import resolve
    from nemo_pi.engine.engine import MegatronEngine
    from nemo_pi.parallel import groups
    from nemo_pi.parallel.cpu_memory import keep_freed_memory

    keys = {
        "num_layers": model["layers"],
        "hidden_size": model["hidden"],
        "ffn_hidden_size": model["ffn"],
        "num_attention_heads": model["heads"],
        "vocab_size": model["vocab"],
        "original_max_position_embeddings": K,
        "max_position_embeddings": length,
        "data": {"data_prefix": ["none"]},
    }
    run = resolve({"model": keys | dict(changes), "trainer": {"max_steps": 100}}, world_size=1, summary=None)
    groups.ensure_process_group()
    groups.initialize(run.parallel, run.seed)
    keep_freed_memory()  # as training does
    engine = MegatronEngine(run.engine)
    engine.start_training()
    tokens = torch.randint(0, model["vocab"], (1, length + 1))
    batch = {
        "tokens": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "loss_mask": torch.ones(1, length),
        "position_ids": torch.arange(length)[None],
    }
    return lambda: (engine.forward_backward(batch), engine.step())


def step_of_transformers(model: Mapping[str, int], length: int, checkpointed: bool) -> Any:
    """A function that trains one step in a plain loop."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=model["layers"],
        hidden_size=model["hidden"],
        intermediate_size=model["ffn"],
        num_attention_heads=model["heads"],
        num_key_value_heads=model["heads"],
        vocab_size=model["vocab"],
        max_position_embeddings=length,
        attn_implementation="sdpa",
        use_cache=False,
    )
    llama = LlamaForCausalLM(config).train()
    if checkpointed:
        llama.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(llama.parameters(), lr=2e-5, fused=True)
    tokens = torch.randint(0, model["vocab"], (1, length))

    def step() -> None:
        llama(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_of_litgpt(model: Mapping[str, int], length: int) -> Any:
    """A function that trains one step as litgpt's fine-tuning does, layers recomputed, logits in chunks."""
    sys.path.append(str(OWN_PACKAGES / "litgpt"))
    from litgpt.config import Config
    from litgpt.model import GPT, Block
    from litgpt.utils import chunked_cross_entropy
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    config = Config(
        name="benchmark",
        block_size=length,
        n_layer=model["layers"],
        n_embd=model["hidden"],
        n_head=model["heads"],
        n_query_groups=model["heads"],
        head_size=model["hidden"] // model["heads"],
        vocab_size=model["vocab"],
        padded_vocab_size=model["vocab"],
        intermediate_size=model["ffn"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    gpt = GPT(config)
    apply_activation_checkpointing(gpt, check_fn=lambda module: isinstance(module, Block))
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=2e-5, fused=True)
    tokens, labels = (torch.randint(0, model["vocab"], (1, length)) for _ in range(2))

    def step() -> None:
        chunked_cross_entropy(gpt(tokens, lm_head_chunk_size=128), labels).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measured(name: str, length: int, quick: bool) -> Point:
    """One step of a contestant, in this process."""
    model = sizes(quick)
    if name in OURS:
        step = step_of_ours(model, length, OURS[name])
    elif name == LITGPT:
        step = step_of_litgpt(model, length)
    else:
        step = step_of_transformers(model, length, TRANSFORMERS[name])
    reset_peak()
    started = time.process_time()
    step()
    return Point(peak_mib(), time.process_time() - started)


def in_own_process(name: str, length: int, quick: bool, minutes: float | None = None) -> Point:
    """measured(), in a process that has done nothing else; a step that ends without memory is an error."""
    command = [sys.executable, "-m", "benchmarks.longest_window", *(["--quick"] if quick else [])]
    limit = None if minutes is None else 60 * minutes
    done = subprocess.run(
        [*command, name, str(length)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit
    )
    if done.returncode:
        raise RuntimeError(f"{name} at {length}: status {done.returncode}\n{done.stderr[-2000:]}")
    return Point(*json.loads(done.stdout.strip().splitlines()[-1]))


def longest(short: Point, long: Point, lengths: tuple[int, int], budget_gib: float) -> int:
    """Tokens that a budget holds, by the line through two peaks; whole kibitokens, or 0."""
    per_token = (long.mib - short.mib) / (lengths[1] - lengths[0])
    room = budget_gib * 1024 - (short.mib - per_token * lengths[0])
    return max(0, int(room / per_token) // K * K)


def row(name: str, lengths: tuple[int, int], points: Sequence[Point]) -> dict[str, Any]:
    """A line of the table."""
    short, long = points
    return {
        "contestant": name,
        **{f"{budget} GiB": longest(short, long, lengths, budget) for budget in BUDGETS},
        "KiB a token": round((long.mib - short.mib) * MIB / (lengths[1] - lengths[0]) / 1024, 1),
        f"MiB at {lengths[0]}": round(short.mib),
        f"MiB at {lengths[1]}": round(long.mib),
        f"CPU ms a token at {lengths[1]}": round(1000 * long.seconds / lengths[1], 2),
    }


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Who holds the longest sample in 4 GiB, and how many times the others' best."""
    ours = [line for line in rows if line["contestant"] in OURS]
    others = [line for line in rows if line["contestant"] in THEIRS]
    if not ours or not others:
        return "Not compared: one side is missing."
    best, other = (max(side, key=lambda line: line["4 GiB"]) for side in (ours, others))
    times = best["4 GiB"] / max(1, other["4 GiB"])
    return (
        f"Ahead in 4 GiB: {best['contestant']} with {best['4 GiB']:,} tokens, {times:.1f} times "
        f"{other['contestant']} ({other['4 GiB']:,})."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy model")
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument(
        "--lengths", type=int, nargs=2, default=(4 * K, 8 * K), help="tokens, default 4096 8192"
    )
    parser.add_argument("--train", type=float, help="minutes that training a longest sample may take; none")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write")
    parser.add_argument("one", nargs="*", help=argparse.SUPPRESS)  # what in_own_process asks of its process
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Measures and writes the results."""
    args = parse(arguments)
    if args.one:
        name, length = args.one
        point = measured(name, int(length), args.quick)
        print(json.dumps([point.mib, point.seconds]))
        return []
    announce("longest_window", 30 if args.quick else 600)
    short, long = (256, 512) if args.quick else args.lengths
    rows: list[dict[str, Any]] = []
    raw: dict[str, Any] = {}
    notes = [
        "Tokens of the longest sample within so much resident memory of the whole process, by the line "
        f"through the peaks at {short:,} and {long:,} tokens. Model: {sizes(args.quick)}, fp32.",
        "Liger-Kernel's loss needs Triton and a GPU: not run on a CPU.",
    ]
    written: list[Path] = []
    for name in (*THEIRS, *OURS):
        try:
            points = [in_own_process(name, length, args.quick) for length in (short, long)]
        except RuntimeError as error:
            notes.append(f"Not measured: {' '.join(str(error).split())[-400:]}")
            continue
        rows.append(row(name, (short, long), points))
        raw[name] = [[point.mib, point.seconds] for point in points]
        if args.train is not None:
            notes.append(_trained(name, rows[-1]["2 GiB"], args))
        written = write_results(
            "longest_window-quick" if args.quick else "longest_window",
            hardware(args.device),
            rows,
            verdict(rows),
            notes=notes,
            raw=raw,
            folder=args.results,
            unfinished="" if name == list(OURS)[-1] else "more contestants",
        )
    if not rows:
        raise SystemExit("\n".join(notes))
    return written


def _trained(name: str, length: int, args: argparse.Namespace) -> str:
    """What came of training the length that the smallest budget is said to hold."""
    try:
        peak = in_own_process(name, length, args.quick, args.train).mib
    except subprocess.TimeoutExpired:
        return f"{name} at {length:,} tokens: not trained within {args.train:g} min."
    except RuntimeError as error:
        return f"{name} at {length:,} tokens: {' '.join(str(error).split())[-200:]}"
    return f"{name} at {length:,} tokens: trained, peak {peak:,.0f} MiB."


if __name__ == "__main__":
    main()
