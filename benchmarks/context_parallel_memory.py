"""What one layer needs on each rank when a sequence is split over 1, 2 and 4 context-parallel ranks.

Each rank is a process of its own on gloo. Memory is the process's resident set, read from the kernel: what
the forward pass leaves for the backward pass, and the highest point of both. Beside nemo_pi's attention runs
the plain alternative: gathered keys and values that autograd keeps. The share of the processor time that a
rank spends exchanging bounds what a ring could hide behind its computation.

Run from the root of the repository: python -m benchmarks.context_parallel_memory [--tokens 16384]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.harness import hardware, write_results
from benchmarks.training.memory import forget_highest, from_status, return_freed_tensors
from nemo_pi.cli.parser import Parser
from nemo_pi.families.shape import ModelShape
from nemo_pi.model import core_attention
from nemo_pi.model.build import BuildOptions, build_model_chunks
from nemo_pi.model.causal import attend_causally
from nemo_pi.model.context_attention import SplitRows
from nemo_pi.parallel import groups
from nemo_pi.parallel.context import split_rows
from nemo_pi.parallel.cpu_shim import cpu_shim
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension

SHAPE = ModelShape(
    num_layers=1,
    hidden_size=256,
    ffn_hidden_size=688,
    num_attention_heads=8,
    num_query_groups=2,
    head_dim=32,
    vocab_size=64,
)
RANKS = (1, 2, 4)


def main() -> None:
    """Measures, prints and writes the result files."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384, help="length of the sequence")
    tokens = parser.parse_args().tokens
    torch.set_num_threads(1)
    return_freed_tensors()
    machine, rows = hardware(), []
    for ranks in RANKS:
        for kept_whole in (False, True) if ranks > 1 else (False,):
            rows.append(_row(_measure(ranks, tokens, kept_whole), ranks, tokens, kept_whole))
    ours = [row for row in rows if row["gathered keys"] != "kept"]
    peaks = [row["peak MiB"] for row in ours]
    verdict = (
        f"Peak memory of a rank falls from {peaks[0]} to {peaks[1]} to {peaks[2]} MiB over 1, 2 and 4 ranks: "
        f"{peaks[0] / peaks[1]:.2f} and {peaks[0] / peaks[2]:.2f} times less."
    )
    notes = [
        f"one layer, forward and backward, one row of {tokens} tokens, fp32: hidden 256, MLP 688, "
        "8 query and 2 key/value heads of 32, vocabulary 64",
        "one thread a rank; CPU time of a rank, which leaves out waiting, for a core or for another rank",
    ]
    write_results("context-parallel-memory", machine, rows, verdict, notes=notes)


def _row(measured: dict[str, float], ranks: int, tokens: int, kept_whole: bool) -> dict[str, Any]:
    return {
        "ranks": ranks,
        "tokens a rank": tokens // ranks,
        "gathered keys": "-" if ranks == 1 else "kept" if kept_whole else "gathered again",
        "kept MiB": round(measured["kept"]),
        "peak MiB": round(measured["peak"]),
        "CPU seconds": round(measured["seconds"], 1),
        "exchanging %": round(100 * measured["exchanging"] / measured["seconds"], 1),
    }


def _measure(ranks: int, tokens: int, kept_whole: bool) -> dict[str, float]:
    """The fullest rank's memory in MiB, the busiest one's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (ranks, tokens, kept_whole, folder)
        mp.start_processes(_rank, arguments, nprocs=ranks, start_method="fork")
        found = [torch.load(path, weights_only=True) for path in Path(folder).glob("*.pt")]
    return {key: max(one[key] for one in found) for key in found[0]}


def _rank(rank: int, ranks: int, tokens: int, kept_whole: bool, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    layout = ParallelLayout(cp=ranks)
    groups.initialize(layout, seed=1)
    exchanging = _timed_exchange()
    if kept_whole:
        core_attention.attend_split_rows = _attend_keeping  # type: ignore[assignment]
    extension = ContextExtension.unscaled(tokens, SHAPE.head_dim)
    with cpu_shim():
        (model,) = build_model_chunks(SHAPE, extension, layout, BuildOptions())
        _forward(model, 64 * ranks).backward()  # what is made once is made before
        model.zero_grad()
        exchanging.clear()
        dist.barrier()
        before, started = from_status("VmRSS"), time.process_time()
        forget_highest()
        loss = _forward(model, tokens)
        kept = from_status("VmRSS") - before
        loss.backward()
    seconds, peak = time.process_time() - started, from_status("VmHWM") - before
    found = {"kept": kept, "peak": peak, "seconds": seconds, "exchanging": sum(exchanging)}
    torch.save(found, f"{folder}/{rank}.pt")
    groups.destroy()


def _forward(model: Any, tokens: int) -> Tensor:
    """The summed loss of this rank's shard of one row."""
    split = split_rows([(0, tokens)], groups.context_size(), groups.context_rank())
    ids_BL = split.take(torch.randint(0, SHAPE.vocab_size, (1, tokens), generator=torch.manual_seed(2)))
    positions_BL = split.take(torch.arange(tokens)[None])
    losses: Tensor = model(ids_BL, positions_BL, None, labels=ids_BL)
    return losses.sum()


def _timed_exchange() -> list[float]:
    """Seconds of every gather and scatter from here on."""
    seconds: list[float] = []

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started = time.process_time()
            found = work(*args)
            seconds.append(time.process_time() - started)
            return found

        return run

    SplitRows.gather = timed(SplitRows.gather)  # type: ignore[method-assign]
    SplitRows.scatter = timed(SplitRows.scatter)  # type: ignore[method-assign]
    return seconds


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, v: Tensor, rows: SplitRows) -> tuple[Tensor, ...]:
        ctx.rows = rows
        return tuple(rows.gather(k, v))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return *ctx.rows.scatter(list(gradients)), None


def _attend_keeping(q: Tensor, k: Tensor, v: Tensor, rows: SplitRows) -> Tensor:
    """Attention that leaves the gathered keys and values to autograd (one row)."""
    (whole,) = _Gather.apply(k, v, rows)
    parts = [
        attend_causally(q[queries].permute(1, 2, 0, 3), whole[0][:, :, keys], whole[1][:, :, keys])
        for queries, keys in rows.split.spans[0]
    ]
    return torch.cat(parts, dim=2).permute(2, 0, 1, 3)


if __name__ == "__main__":
    main()
