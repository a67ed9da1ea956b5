"""What one rank measures of each way to attend over split rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.context_parallel.ring import ATTENTION, Ring, attend_around, heads_first, tokens_first
from benchmarks.harness import alternate
from benchmarks.training.memory import forget_highest, from_status, return_freed_tensors
from nemo_pi.model.causal import attend_causally
from nemo_pi.model.context_attention import SplitRows, attend_split_rows
from nemo_pi.model.span_attention import Merged, Recomputed
from nemo_pi.parallel.context import ContextSplit, split_rows
from nemo_pi.parallel.cpu_memory import keep_freed_memory

OURS, RING, AGAIN = "all-gather (ours)", "ring", "all-gather, attended again"
TOLERANCE = 1e-4
"""Largest difference from one rank's fp32 attention, as a part of the largest value."""
Way = Callable[[Tensor, Tensor, Tensor], Tensor]
"""This rank's shard of q [L, 1, N, D], k and v [L, 1, G, D] to the output [L, 1, N, D]."""


@dataclass(frozen=True)
class Job:
    """What is measured on so many ranks."""

    ranks: int
    lengths: tuple[int, ...]
    """Tokens of a row; multiples of 2 · ranks."""
    rounds: int
    heads: tuple[int, int, int]
    """Query heads, key/value heads, head dim."""


@dataclass
class Measured:
    """Of one way at one length."""

    seconds: list[float] = field(default_factory=list)
    """Of each round, until the last rank was done."""
    cpu_seconds: list[float] = field(default_factory=list)
    """Processor time of this rank, its exchange's threads among it."""
    sent_bytes: int = 0
    """What this rank wrote to others."""
    kept_mib: float = 0.0
    """What the forward pass left for the backward pass."""
    peak_mib: float = 0.0
    """The highest point of both."""


def measure_on_rank(rank: int, job: Job, folder: str) -> None:
    """Measures with the other ranks; every rank writes RANK.json: its error, and what it found."""
    torch.set_num_threads(1)
    return_freed_tensors()
    store = dist.FileStore(f"{folder}/store", job.ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job.ranks)
    error = _worst_error(job)
    found = {length: {way: Measured() for way in _ways(length)} for length in job.lengths}
    for length, ways in found.items():
        _weigh(job, length, ways)
    keep_freed_memory()
    for length, ways in found.items():
        _time(job, length, ways)
    plain = {length: {way: asdict(one) for way, one in ways.items()} for length, ways in found.items()}
    Path(folder, f"{rank}.json").write_text(json.dumps({"error": error, "found": plain}), encoding="utf-8")
    dist.destroy_process_group()


def _group() -> dist.ProcessGroup:
    assert dist.group.WORLD is not None
    return dist.group.WORLD


def _split(length: int) -> ContextSplit:
    return split_rows([(0, length)], dist.get_world_size(), dist.get_rank())


def _ways(length: int) -> dict[str, Way]:
    split, group = _split(length), _group()
    again = Recomputed(partial(attend_causally, backend=ATTENTION))
    return {
        OURS: partial(attend_split_rows, rows=SplitRows(split, group, Merged(backend=ATTENTION))),
        RING: partial(attend_around, ring=Ring(group)),
        AGAIN: partial(attend_split_rows, rows=SplitRows(split, group, again)),
    }


def _draw(length: int, heads: tuple[int, int, int]) -> list[Tensor]:
    """q, k, v and the gradient of the output, [length, 1, heads, D]; the same on every rank."""
    query_heads, groups, head_dim = heads
    generator = torch.Generator().manual_seed(0)
    counts = (query_heads, groups, groups, query_heads)
    return [torch.randn(length, 1, count, head_dim, generator=generator) for count in counts]


def _pass(way: Way, drawn: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    leaves, upstream = [x.clone().requires_grad_() for x in drawn[:3]], drawn[3]
    out = way(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def _on_one_rank(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    first = [heads_first(x) for x in (q, k, v)]
    out = scaled_dot_product_attention(first[0], first[1], first[2], is_causal=True, enable_gqa=True)
    return tokens_first(out)


def _worst_error(job: Job) -> float:
    """How far any way is from one rank's attention, at the shortest length.

    Raises:
        ArithmeticError: further than TOLERANCE.
    """
    length = min(job.lengths)
    drawn = _draw(length, job.heads)
    places = _split(length).take(torch.arange(length)[None])[0]
    wanted = [x[places] for x in _pass(_on_one_rank, drawn)]
    worst = 0.0
    for name, way in _ways(length).items():
        given = _pass(way, [x[places] for x in drawn])
        errors = [
            float((one - other).abs().max() / other.abs().max())
            for one, other in zip(given, wanted, strict=True)
        ]
        if not max(errors) <= TOLERANCE:
            raise ArithmeticError(f"{name}: output, dq, dk, dv differ from one rank's by {errors}")
        worst = max(worst, *errors)
    return worst


def _weigh(job: Job, length: int, found: dict[str, Measured]) -> None:
    """Memory and bytes sent of one forward and backward pass of each way."""
    drawn = _draw(length // job.ranks, job.heads)
    for name, way in _ways(length).items():
        _pass(way, drawn)  # what is made once is made before
        _weigh_pass(way, drawn, found[name])


def _weigh_pass(way: Way, drawn: list[Tensor], found: Measured) -> None:
    leaves = [x.clone().requires_grad_() for x in drawn[:3]]
    return_freed_tensors()
    dist.barrier()
    before, sent = from_status("VmRSS"), _written()
    forget_highest()
    out = way(*leaves)
    found.kept_mib = from_status("VmRSS") - before
    torch.autograd.grad(out, leaves, drawn[3])
    found.peak_mib = from_status("VmHWM") - before
    found.sent_bytes = _written() - sent


def _written() -> int:
    """Bytes this process has written to files and sockets so far, by the kernel's count."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def _time(job: Job, length: int, found: dict[str, Measured]) -> None:
    drawn = _draw(length // job.ranks, job.heads)

    def run(name: str, way: Way) -> None:
        started = time.process_time()
        _pass(way, drawn)
        found[name].cpu_seconds.append(time.process_time() - started)
        dist.barrier()

    contestants: dict[str, Any] = {name: partial(run, name, way) for name, way in _ways(length).items()}
    for name, seconds in alternate(contestants, rounds=job.rounds, warmup=1).items():
        found[name].seconds = seconds
        del found[name].cpu_seconds[0]  # the warm-up's
