"""How long a benchmark will take, from the work and the speed of matrix products measured here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch

from benchmarks.harness import timed
from benchmarks.training.sizes import Size
from nemo_pi.engine.throughput import training_flops_per_token

# Of the speed of large matrix products, what a training step reaches; and what a process takes to load.
_SHARE_OF_PEAK, _LOADING_SECONDS = 0.66, 5.0
_SIDE = 1024


def gemm_flops_per_second(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    side: int = _SIDE,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.mm,
) -> float:
    """The best of several products of two square matrices."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(timed(lambda: product(one, other)) for _ in range(10))
    return 2 * side**3 / best


def steps_seconds(size: Size, length: int, steps: int, flops_per_second: float) -> float:
    """Seconds that so many steps of one sample take, roughly."""
    work = training_flops_per_token(size.shape, length) * length
    return steps * work / (_SHARE_OF_PEAK * flops_per_second)


def loading_seconds(processes: int) -> float:
    """Seconds until so many processes, started together, have loaded."""
    return _LOADING_SECONDS * (1 + processes / (os.cpu_count() or 1))


def announce(what: str, seconds: float) -> None:
    """Prints the estimate, in whole minutes from above."""
    print(f"{what}: about {math.ceil(seconds / 60)} min on an idle machine.", flush=True)
