"""The training recipe: precision, steps, optimizer, schedule, dropout, recomputation, tokenizer, export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemo_pi.checkpoint.hf.folder import DTYPES
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.sections import ExportConfig, OptimConfig, SchedConfig, TokenizerConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.data.tokenizer import LIBRARIES
from nemo_pi.errors import ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.options import ALL_BUT_ATTENTION, Recompute
from nemo_pi.parallel.layout import ParallelLayout

OPTIMIZERS = ("adamw", "adam", "fused_adam", "megatron_fused_adam", "distributed_fused_adam")
_SCHEDULES = {
    "constant": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "CosineAnnealing": "cosine",
    "WarmupPolicy": "constant",
    "WarmupHoldPolicy": "constant",
}
_PRECISIONS = {
    "32": "32-true",
    "32-true": "32-true",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
    "16": "16-mixed",
    "16-mixed": "16-mixed",
    "16-true": "16-true",
}


def resolve_precision(given: Any, summary: CheckpointSummary | None = None) -> str:
    """Lightning's canonical precision name, from a number (32), a short name (bf16), itself or `auto`.

    `auto` goes by the checkpoint's dtype: a model published in 16 bits is trained in bf16 with fp32 main
    copies (fp16's narrow range would need loss scaling), anything else, random weights included, in fp32.
    """
    name = "32" if given is None else str(given)
    if name == "auto":
        return "32-true" if summary is None or summary.dtype == "float32" else "bf16-mixed"
    check_choice("trainer.precision", name, (*_PRECISIONS, "auto"))
    return _PRECISIONS[name]


def dtype_of(precision: str) -> torch.dtype:
    """Dtype of weights and activations under a canonical precision name."""
    kind = precision.split("-")[0]
    return {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[kind]


def resolve_optim(optim: OptimConfig, max_steps: int) -> OptimConfig:
    """The optimizer with canonical schedule name and its number of steps filled in."""
    check_choice("model.optim.name", optim.name, OPTIMIZERS)
    _check("model.optim.lr", optim.lr, optim.lr > 0, "more than 0", "2e-5 is the paper's for 7B and 13B")
    for index, beta in enumerate(optim.betas):
        _check(f"model.optim.betas[{index}]", beta, 0 <= beta < 1, "in [0, 1)", "[0.9, 0.95] is the paper's")
    decay, eps = optim.weight_decay, optim.eps
    _check("model.optim.weight_decay", decay, decay >= 0, "0 or more", "0 turns it off")
    _check("model.optim.eps", eps, eps > 0, "more than 0", "1e-8 is usual")
    return replace(optim, sched=_resolve_sched(optim.sched, optim.lr, max_steps))


def _resolve_sched(sched: SchedConfig, lr: float, max_steps: int) -> SchedConfig:
    key = "model.optim.sched"
    check_choice(f"{key}.name", sched.name, tuple(_SCHEDULES))
    end = max_steps if sched.max_steps is None else sched.max_steps
    _check(f"{key}.max_steps", end, end >= 1, "at least 1", "null takes trainer.max_steps")
    warmup, fraction = sched.warmup_steps, sched.warmup_start_fraction
    _check(
        f"{key}.warmup_steps",
        warmup,
        0 <= warmup < end,
        f"0 to {end - 1} (max_steps={end})",
        f"{key}.warmup_steps={max(0, min(warmup, end - 1))}",
    )
    _check(f"{key}.warmup_start_fraction", fraction, 0 <= fraction <= 1, "in [0, 1]", "0.1 is the paper's")
    _check(f"{key}.min_lr", sched.min_lr, 0 <= sched.min_lr <= lr, f"0 to optim.lr={lr}", f"{key}.min_lr=0")
    hold, room = sched.constant_steps, end - warmup
    _check(
        f"{key}.constant_steps",
        hold,
        0 <= hold < room,
        f"0 to {room - 1} (max_steps − warmup_steps)",
        f"{key}.constant_steps={max(0, min(hold, room - 1))}",
    )
    return replace(sched, name=_SCHEDULES[sched.name], max_steps=end)


def check_initialization(model: ModelConfig) -> None:
    """Refuse impossible seeds and initial weights, and dropout.

    Llama-like models have no dropout, and checkpoints do not carry the generators' states.
    """
    for name in ("hidden_dropout", "attention_dropout"):
        value = getattr(model, name)
        _check(f"model.{name}", value, value == 0, "0 (models are built without dropout)", "set it to 0.0")
    _check("model.seed", model.seed, 0 <= model.seed < 2**32, "0 to 2^32 − 1", "1234 is the default")
    std = model.init_method_std
    _check("model.init_method_std", std, std > 0, "more than 0", "0.02 is usual")


def resolve_recompute(model: ModelConfig, shape: ModelShape, layout: ParallelLayout) -> Recompute:
    """Activation recomputation in Megatron's terms."""
    key, number = "model.activations_checkpoint", model.activations_checkpoint_num_layers
    granularity, method = model.activations_checkpoint_granularity, model.activations_checkpoint_method
    if granularity is not None:
        check_choice(f"{key}_granularity", granularity, ("selective", "full"))
    if method is not None:
        check_choice(f"{key}_method", method, ("uniform", "block"))
    modules = model.activations_checkpoint_modules
    if modules is not None:
        _check_modules(f"{key}_modules", modules, granularity)
    if granularity != "full":
        for name, value in ((f"{key}_method", method), (f"{key}_num_layers", number)):
            _check(
                name,
                value,
                value is None,
                f"null unless {key}_granularity is full",
                "null, or granularity full",
            )
        chosen = tuple(modules or ("core_attn",)) if granularity == "selective" else ()
        return Recompute(granularity, modules=chosen)
    number = 1 if number is None else number
    most = layout.layers_per_chunk(shape.num_layers)
    _check(
        f"{key}_num_layers", number, 1 <= number <= most, f"1 to {most}, the layers of a stage", "1 is usual"
    )
    if method != "block":
        _check(
            f"{key}_num_layers",
            number,
            most % number == 0,
            f"a divisor of {most}, the layers of a stage",
            "1 is usual; method block takes any",
        )
    return Recompute("full", method or "uniform", number)


def _check_modules(key: str, modules: list[str], granularity: str | None) -> None:
    required = "null unless model.activations_checkpoint_granularity is selective"
    _check(key, modules, granularity == "selective", required, "null, or granularity selective")
    for name in modules:
        check_choice(key, name, ("core_attn", "mlp", ALL_BUT_ATTENTION))
    if ALL_BUT_ATTENTION in modules:
        required = f"{ALL_BUT_ATTENTION} alone: it stands for all modules but core attention"
        _check(key, modules, len(modules) == 1, required, f"{key}=[{ALL_BUT_ATTENTION}]")
        return
    different = len(set(modules)) == len(modules) > 0
    _check(key, modules, different, "core_attn, mlp or both, each once", "[mlp] saves most")


def resolve_tokenizer(given: TokenizerConfig, summary: CheckpointSummary | None) -> TokenizerConfig | None:
    """The tokenizer with its files; None where neither the YAML nor the checkpoint names one."""
    own = None if summary is None else summary.tokenizer_path
    if given.library is None and given.model is None:
        return None if own is None else TokenizerConfig("huggingface", given.type, str(own))
    library = given.library or "huggingface"
    check_choice("model.tokenizer.library", library, LIBRARIES)
    model = given.model
    if library == "huggingface" and model is None and own is not None:
        model = str(own)
    if library != "byte" and model is None:
        raise ConfigError(
            "model.tokenizer.model",
            required=f"the {library} tokenizer's {'folder' if library == 'huggingface' else '.model file'}",
            given="null, and the checkpoint carries none",
            fix="give model.tokenizer.model, or library byte",
        )
    return TokenizerConfig(library, given.type, model)


def resolve_export(export: ExportConfig, summary: CheckpointSummary | None) -> ExportConfig:
    """The export with its dtype filled in (the checkpoint's own, or float32) and `~` for the home folder."""
    if export.hf_path is not None:
        export = replace(export, hf_path=str(Path(export.hf_path).expanduser()))
    if export.peft_path is not None:
        export = replace(export, peft_path=str(Path(export.peft_path).expanduser()))
        _check(
            "model.export.peft_path",
            export.peft_path,
            export.peft_path != export.hf_path,
            "another folder than hf_path's: one holds whole weights, the other adapters",
            "model.export.hf_path=null, or two folders",
        )
    if export.dtype is not None:
        check_choice("model.export.dtype", export.dtype, tuple(DTYPES.values()))
        return export
    return replace(export, dtype="float32" if summary is None else summary.dtype)


def _check(key: str, given: Any, holds: bool, required: str, fix: str) -> None:
    if not holds:
        raise ConfigError(key, required=required, given=given, fix=fix)
