"""Where the numbers of examples/evaluate.py come from: what the report says of model and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_plan import ModelPlan
from nemo_pi.errors import NemoPiError
from nemo_pi.families.registry import family_of
from nemo_pi.units import short


def describe_origin(plan: ModelPlan, config: EvaluateConfig) -> dict[str, dict[str, str]]:
    """Return the checkpoint, what computes it, and every key of the configuration."""
    layout = "transformers" if plan.layout is None else f"Megatron, {plan.layout.describe()}"
    context = plan.context
    return {
        "Model": {"folder": str(plan.folder), **describe_checkpoint(plan)},
        "Computation": {
            "computed by": layout,
            "dtype": config.dtype,
            "windows": f"{context.original_window:,} → {context.target_window:,} tokens",
            "documents": f"{len(context.documents):,} longer than the target window",
            "beginning-of-text token": "before every window and prompt" if context.add_bos else "none",
        },
        "Configuration": dict(
            _flat({key: value for key, value in asdict(config).items() if key != "models"})
        ),
    }


def describe_checkpoint(plan: ModelPlan) -> dict[str, str]:
    """Return what a checkpoint says of itself; nothing where only transformers can read it."""
    try:
        summary = plan.summary or read_summary(plan.folder)
    except NemoPiError:  # it is evaluated all the same
        return {}
    return {
        "checkpoint": _kind(summary),
        "parameters": short(family_of(summary.shape).num_parameters(summary.shape)),
        "weights stored as": summary.dtype,
        **_positions(summary),
    }


def _kind(summary: CheckpointSummary) -> str:
    if summary.kind == "huggingface":
        return "Hugging Face folder"
    return f"distributed checkpoint, step {summary.global_step:,}"


def _positions(summary: CheckpointSummary) -> dict[str, str]:
    extension = summary.extension
    arguments = "".join(f", {name} {value}" for name, value in extension.extra_args.items())
    scaled = f"{extension.scaling.title}, factor {extension.factor:g}{arguments}"
    return {
        "positions": scaled if extension.is_scaled else "plain RoPE",
        "base": f"{extension.base:,.6g}",
        "its own windows": f"{extension.original_window:,} → {extension.target_window:,} tokens",
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value, as the command line takes them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            yield f"{prefix}{key}", shown
