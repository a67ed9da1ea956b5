"""Megatron's optimizer, and its states on their way into and out of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, cast

import torch
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer_config import ParamKey
from megatron.core.optimizer_param_scheduler import ParamGroupOverride
from torch import Tensor, nn

from nemo_pi.engine.settings import DTYPES, AdamSettings
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
    # Dtypes come by their names.
    further = {
        name: DTYPES[value] if name.endswith("_dtype") else value
        for name, value in named.pop("megatron").items()
    }
    overrides = _overrides(named.pop("lr_multipliers"))
    config = OptimizerConfig(**chosen | named | further)
    overrides = get_standard_config_overrides(config) | overrides
    with cpu_shim():
        # parallel/groups.py makes no second groups of gloo.
        optimizer = get_megatron_optimizer(config, chunks, overrides, use_gloo_process_groups=False)
    for group in optimizer.param_groups:
        # Megatron marks vectors (norms) with 0 here and leaves it to its own scheduler to apply the mark.
        group["weight_decay"] = settings.weight_decay * group.get("wd_mult", 1.0)
        if "fused" in group:  # torch's AdamW; Transformer Engine's and apex's are fused already
            group.update(fused=True, foreach=False)
    return optimizer


def _overrides(multipliers: Mapping[str, float]) -> dict[ParamKey, ParamGroupOverride]:
    """Megatron's description of the layers whose learning rate is multiplied; engine.set_lr multiplies it."""
    return {
        # Not of the norm that Transformer Engine keeps within the same layer.
        ParamKey(name=tuple(f"*.{linear}.{part}" for part in ("weight", "bias", "adapter.*"))): cast(
            ParamGroupOverride, {"lr_mult": factor}
        )
        for linear, factor in multipliers.items()
    }


def guarded_step(optimizer: MegatronOptimizer, accepts: Callable[[float], bool]) -> float:
    """As `optimizer.step()`, with a question between the gradients and what they do to the weights.

    Args:
        optimizer: from build_optimizer.
        accepts: given the gradients' norm before clipping, whether the update is made.

    Returns:
        The norm; 0 where fp16 gradients overflowed: Megatron lowers the loss scale and skips the step itself.
    """
    if optimizer.prepare_grads():
        return 0.0
    norm = float(optimizer.get_grad_norm())
    if not accepts(norm):
        return norm
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        parameters, config = part.get_parameters(), part.config
        if parameters and config.clip_grad > 0.0:
            clip_grad_by_total_norm_fp32(
                parameters,
                max_norm=config.clip_grad,
                total_norm=norm,
                use_decoupled_grad=config.use_precision_aware_optimizer_no_fp8_or_ds_fp8,
            )
    optimizer.step_with_ready_grads()
    return norm


def optimizer_tensors(optimizer: MegatronOptimizer) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of this rank's main copies of weights and of Adam's moments."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = getattr(part, "optimizer", None)
        if inner is None:  # of a rank that has nothing to update
            continue
        for number, parameter in enumerate(p for group in inner.param_groups for p in group["params"]):
            yield f"the optimizer's main copy of parameter {number}", parameter
            for name, state in inner.state.get(parameter, {}).items():
                if isinstance(state, Tensor):
                    yield f"the optimizer's {name} of parameter {number}", state


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
