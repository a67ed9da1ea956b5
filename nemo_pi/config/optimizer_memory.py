"""Optimizer states off the device, or narrower than fp32: Megatron's options, under its names."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.sections import OptimConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.engine.settings import DTYPES
from nemo_pi.errors import BackendUnavailableError, ConfigError

_MOMENTS = ("fp32", "fp16", "bf16", "fp8")
_CHOICES = {
    "main_grads_dtype": ("fp32", "bf16"),
    "main_params_dtype": ("fp32", "fp16"),
    "exp_avg_dtype": _MOMENTS,
    "exp_avg_sq_dtype": _MOMENTS,
}
"""What Megatron takes for each."""
_OFFLOAD, _PRECISION = "optimizer_cpu_offload", "use_precision_aware_optimizer"


def resolve_optimizer_memory(optim: OptimConfig, sharded: bool) -> OptimConfig:
    """The section with what its options bring along: offloading is precision-aware in Megatron, and whole.

    Args:
        optim: as given.
        sharded: model.use_distributed_optimizer.

    Raises:
        ConfigError: values that do not go together.
    """
    narrow = {key: getattr(optim, key) for key in _CHOICES if getattr(optim, key) is not None}
    for key, value in narrow.items():
        check_choice(f"model.optim.{key}", value, _CHOICES[key])
    fraction = optim.optimizer_offload_fraction
    if fraction is not None and not 0 <= fraction <= 1:
        raise _wrong("optimizer_offload_fraction", "0 to 1", fraction, "1 offloads all states")
    for key in ("optimizer_offload_fraction", "overlap_cpu_optimizer_d2h_h2d"):
        if getattr(optim, key) and not optim.optimizer_cpu_offload:
            raise _wrong(key, f"null without {_OFFLOAD}", getattr(optim, key), f"model.optim.{key}=null")
    if optim.optimizer_cpu_offload and optim.use_precision_aware_optimizer is False:
        fix = f"model.optim.{_PRECISION}=null"
        raise _wrong(_PRECISION, f"null or true with {_OFFLOAD}, which is built on it", False, fix)
    if optim.optimizer_cpu_offload:
        whole = 1.0 if fraction is None else fraction
        optim = replace(optim, use_precision_aware_optimizer=True, optimizer_offload_fraction=whole)
    if narrow and set(narrow.values()) != {"fp32"} and not optim.use_precision_aware_optimizer:
        key, value = next((key, value) for key, value in narrow.items() if value != "fp32")
        raise _wrong(key, f"fp32 or null without {_PRECISION}", value, f"model.optim.{key}=null")
    if optim.use_precision_aware_optimizer and not sharded:
        raise ConfigError(
            "model.use_distributed_optimizer",
            required=f"true with model.optim.{_OFFLOAD} or {_PRECISION}: Megatron has them there",
            given=False,
            fix="model.use_distributed_optimizer=true",
        )
    return optim


def check_optimizer_memory(run: ResolvedRun) -> None:
    """Refuses what this machine cannot do.

    Raises:
        BackendUnavailableError: no CUDA device, or no Transformer Engine where its Adam is needed.
    """
    options = run.engine.optim.megatron
    asked = next((key for key in (_OFFLOAD, _PRECISION) if options.get(key)), None)
    if asked is None:
        return
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"model.optim.{asked}",
            required="a CUDA device: without one optimizer states are in the host's memory already, in fp32",
            given="true, and PyTorch sees no CUDA device here",
            fix=f"model.optim.{asked}=null",
        )
    if asked == _PRECISION and find_spec("transformer_engine") is None:
        raise BackendUnavailableError(
            f"model.optim.{asked}",
            required="Transformer Engine, whose Adam keeps narrower states",
            given="true, and the package transformer_engine is not installed",
            fix=f"install it (pip install 'nemo_pi[te]'), or model.optim.{asked}=null",
        )


def state_bytes(run: ResolvedRun) -> tuple[float, float, int]:
    """(on the device, on the host) bytes of optimizer states for each trained weight, and of its gradient."""
    options, width = run.engine.optim.megatron, run.compute_dtype.itemsize

    def size(key: str) -> int:
        return DTYPES[options.get(key) or "fp32"].itemsize

    # Weights of 16 bits have a main copy, which is what the optimizer steps.
    states = (
        size("exp_avg_dtype") + size("exp_avg_sq_dtype") + (size("main_params_dtype") if width < 4 else 0)
    )
    gradient = size("main_grads_dtype")
    if not options.get(_OFFLOAD):
        return states, 0, gradient
    away = float(options.get("optimizer_offload_fraction") or 0.0)
    # There all of it is fp32, the weights and a gradient beside it.
    return (1 - away) * states, away * 4 * 4, gradient


def _wrong(key: str, required: str, given: Any, fix: str) -> ConfigError:
    return ConfigError(f"model.optim.{key}", required=required, given=given, fix=fix)
