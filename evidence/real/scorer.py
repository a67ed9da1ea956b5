"""What reads the models that are measured."""

from __future__ import annotations

from pathlib import Path

import torch

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.parallelism import resolve_layout
from nemo_pi.config.schema import ModelConfig
from nemo_pi.engine.megatron_scorer import MegatronScorer
from nemo_pi.engine.opening import open_engine
from nemo_pi.errors import BackendUnavailableError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.kernels.registry import AUTO
from nemo_pi.machine import cpuinfo
from nemo_pi.model.options import BackendRequests, BuildOptions


def best_dtype() -> torch.dtype:
    """bf16 where the processor has tiles for it (AMX), three times as fast as fp32 there; else fp32."""
    return torch.bfloat16 if "amx_bf16" in cpuinfo().get("flags", "") else torch.float32


def fastest_scorer(model: Path, name: str) -> Scorer:
    """What reads: Megatron, in fp32 with the compiled attention, twice as fast as PyTorch's at these lengths.

    Where that cannot be had, transformers. Both give the same numbers to fp32 rounding, and the same answers.
    """
    summary, dtype = read_summary(model), best_dtype()
    attention = "native" if dtype is torch.float32 else AUTO
    build = BuildOptions(params_dtype=dtype, backends=BackendRequests(attention=attention))
    try:
        engine = open_engine(summary, resolve_layout(ModelConfig(), summary.shape, world_size=1), build)
    except BackendUnavailableError:
        return HuggingFaceScorer(model, dtype=dtype)
    return MegatronScorer(engine, name)
