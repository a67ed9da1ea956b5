"""An estimate of what a run writes, from arithmetic alone; each save compares its own bytes anew."""

from __future__ import annotations

import torch

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.families.lora import num_trained
from nemo_pi.families.registry import family_of

_FP32 = 4


def checkpoint_bytes(run: ResolvedRun) -> int:
    """Bytes of one checkpoint: what is trained as it computes, and Adam's two moments and main copy in fp32.

    The distributed optimizer writes a main copy of fp32 weights, too.
    """
    width = run.compute_dtype.itemsize
    sharded = run.engine.optim.use_distributed_optimizer
    states = (3 if sharded or width < _FP32 else 2) * _FP32
    lora, shape = run.engine.build.lora, run.shape
    trained = family_of(shape).num_parameters(shape) if lora is None else num_trained(lora, shape)
    return trained * (width + states)


def export_bytes(run: ResolvedRun) -> int:
    """Bytes of the Hugging Face folder; 0 where none is asked for. Adapters alone are next to nothing."""
    if run.export.hf_path is None:
        return 0
    dtype: torch.dtype = getattr(torch, run.export.dtype or "float32")
    return family_of(run.shape).num_parameters(run.shape) * dtype.itemsize
