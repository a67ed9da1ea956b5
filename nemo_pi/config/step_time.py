"""How long a step and a run take, from a few matrix products measured on this machine.

Good to a factor of two or so: a step's products reach some two thirds of a large one's speed, attention on
short rows less, and what ranks wait for each other is not known beforehand. Kept like verdicts of races
(kernels/verdicts.py); NEMO_PI_RACE=0 measures nothing.
"""

from __future__ import annotations

import os
import time

import torch

from nemo_pi.config.capacity import ranks_of_a_node
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.throughput import training_flops_per_token
from nemo_pi.families.registry import family_of
from nemo_pi.kernels import verdicts
from nemo_pi.kernels.race import SWITCH, waiting

# Of a large product's speed, what a step reaches (docs/performance.md: 0.6 to 0.8 in products and attention).
_SHARE = 0.66
_SIDE, _ROUNDS, _PATIENCE = 1024, 8, 0.2


def seconds_of_a_step(run: ResolvedRun) -> float | None:
    """Seconds of one optimizer step; None where nothing is measured."""
    speed = flops_per_second(run.compute_dtype)
    if speed is None:
        return None
    ranks = run.parallel.world_size
    if not torch.cuda.is_available():
        # Ranks of one machine share its cores, all of which one process's product may have had.
        threads, cores = ranks_of_a_node(run) * torch.get_num_threads(), os.cpu_count() or 1
        speed *= min(1.0, cores / threads)
    # The first and the last micro-batch of a step leave later and earlier stages idle.
    idle = (run.parallel.pp - 1) / (run.num_micro_batches * (run.parallel.vpp or 1))
    return flops_of_a_step(run) / ranks * (1 + idle) / (_SHARE * speed)


def flops_of_a_step(run: ResolvedRun) -> float:
    """Floating-point operations of one optimizer step over all ranks, what is computed again included."""
    shape, recompute, length = run.shape, run.recompute, run.training_length
    once = training_flops_per_token(shape, length)
    family = family_of(shape)
    products = 2.0 * shape.num_layers * family.layer_products(shape)
    mlp = 2.0 * shape.num_layers * (3 if family.layer_kind(shape).gated else 2)
    mlp *= shape.hidden_size * shape.ffn_hidden_size
    attention = once / 3 - products - 2.0 * shape.hidden_size * shape.vocab_size
    again = 0.0
    if recompute.granularity == "full":
        again = products + attention
    elif recompute.keeps_attention:
        again = products
    elif "mlp" in recompute.modules:
        again = mlp
    if run.engine.build.mlp_chunk_tokens is not None:
        again += mlp
    return (once + again) * run.tokens_per_step


def flops_per_second(dtype: torch.dtype) -> float | None:
    """The speed of a large product here, measured once and kept; None where that is switched off."""
    if os.environ.get(SWITCH, "1") == "0":
        return None
    names = ("product",)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    about = verdicts.key("plan", f"{_SIDE} {dtype} on {device}", names)
    found = verdicts.find(about, names)
    if found is None:
        waited, started = waiting(), time.perf_counter()
        found = {"product": _seconds(dtype)}
        quiet = waiting() - waited <= 0.05 * (time.perf_counter() - started) * torch.get_num_threads()
        verdicts.keep(about, found, on_disk=quiet)
    return 2 * _SIDE**3 / found["product"]


@torch.no_grad()
def _seconds(dtype: torch.dtype) -> float:
    """Of the best of some products."""
    on_gpu = torch.cuda.is_available()
    one, other = (torch.ones(_SIDE, _SIDE, dtype=dtype, device="cuda" if on_gpu else "cpu") for _ in range(2))
    best, started = float("inf"), time.perf_counter()
    for _ in range(_ROUNDS):
        before = time.perf_counter()
        torch.nn.functional.linear(one, other)
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - before)
        if time.perf_counter() - started > _PATIENCE:
            break
    return best
