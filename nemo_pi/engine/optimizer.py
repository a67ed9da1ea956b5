"""Megatron's optimizer, and its states on their way into and out of a checkpoint."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import nn

from nemo_pi.engine.settings import AdamSettings
from nemo_pi.parallel.cpu_shim import cpu_shim


def build_optimizer(
    chunks: list[nn.Module], settings: AdamSettings, params_dtype: torch.dtype
) -> MegatronOptimizer:
    """Megatron's AdamW over DDP-wrapped model chunks, with torch's fused step where it runs.

    Args:
        chunks: Megatron DistributedDataParallel modules.
        settings: hyperparameters.
        params_dtype: dtype of the weights; 16-bit ones get fp32 main copies.
    """
    named = {field.name: getattr(settings, field.name) for field in fields(settings)}
    chosen: dict[str, Any] = dict(
        optimizer="adam",
        params_dtype=params_dtype,
        bf16=params_dtype is torch.bfloat16,
        fp16=params_dtype is torch.float16,
    )
    further = named.pop("megatron")
    config = OptimizerConfig(**chosen | named | dict(further))
    with cpu_shim():
        # parallel/groups.py makes no second groups of gloo.
        optimizer = get_megatron_optimizer(config, chunks, use_gloo_process_groups=False)
    for group in optimizer.param_groups:
        # Megatron marks vectors (norms) with 0 here and leaves it to its own scheduler to apply the mark.
        group["weight_decay"] = settings.weight_decay * group.get("wd_mult", 1.0)
        if "fused" in group:  # torch's AdamW; Transformer Engine's and apex's are fused already
            group.update(fused=True, foreach=False)
    return optimizer


def prepare_to_load(optimizer: MegatronOptimizer) -> None:
    """Gives torch's Adam its states before the first step, for sharded_state_dict(is_loading=True).

    Megatron's distributed optimizer reads them there; it makes them itself only for Transformer Engine's
    and apex's Adam.
    """
    part = _sharded_torch_adam(optimizer)
    if part is None:
        return
    for group in part.optimizer.param_groups:
        for parameter in group["params"]:
            if not part.optimizer.state[parameter]:
                part.optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def load_states(optimizer: MegatronOptimizer, state: dict[str, Any]) -> None:
    """As `optimizer.load_state_dict(state)`, which for sharded states of torch's Adam goes wrong twice.

    It looks for the step among a parameter's stored tensors, where it is not. And it puts one step tensor
    into all states, which a fused update would then count up once a parameter.
    """
    part = _sharded_torch_adam(optimizer)
    if part is None:
        optimizer.load_state_dict(state)
        return
    rest = {key: value for key, value in state.items() if not key.startswith("param_state")}
    part.load_state_dict(rest)
    steps = {parameter: held.pop("step") for parameter, held in part.optimizer.state.items()}
    part.load_parameter_state_from_fully_reshardable(state["param_state"])
    for parameter, step in steps.items():
        part.optimizer.state[parameter]["step"] = step.clone()


def _sharded_torch_adam(optimizer: MegatronOptimizer) -> DistributedOptimizer | None:
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    sharded = [part for part in parts if isinstance(part, DistributedOptimizer)]
    if not sharded or not isinstance(sharded[0].optimizer, torch.optim.Adam | torch.optim.AdamW):
        return None
    assert len(parts) == 1, "a dense model has one optimizer"
    return sharded[0]
