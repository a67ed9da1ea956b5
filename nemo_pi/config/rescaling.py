"""A checkpoint that was extended before: kept as it is or refused, never scaled twice in silence."""

from __future__ import annotations

from dataclasses import replace

import torch

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies


def keep_scaled(
    model: ModelConfig, method: str | None, factor: float | None, summary: CheckpointSummary
) -> ContextExtension:
    """The checkpoint's own extension, if the YAML asks for the same or for nothing.

    Both windows may be named otherwise where positions stay the same: a linear config.json has one window,
    and published ones left it at the original length.

    Args:
        model: the model section; keys that are null ask for nothing.
        method: the method it asks for, whichever way it is spelled, or None.
        factor: the factor it asks for, or None.
        summary: a checkpoint whose extension is scaled.

    Raises:
        ConfigError: it asks for something else, and does not say `allow_rescaling`.
    """
    found = summary.extension
    differing = _differing(model, method, factor, found)
    if not differing:
        return found
    corrected = _with_windows(model, found) if set(differing) <= _WINDOW_KEYS else None
    if corrected is not None:
        return corrected
    held = f"{found.method} by {found.factor:g}, {found.original_window} → {found.target_window} tokens"
    raise ConfigError(
        f"model.{next(iter(differing))}",
        required=f"the checkpoint's own extension ({held}): {summary.path} is already scaled",
        given=", ".join(f"{name}={value}" for name, value in differing.items()),
        fix=(
            f"to train on as it is: max_position_embeddings={found.target_window} "
            f"pos_scaling_type={found.method} pos_scaling_factor={found.factor:g}, other window keys null; "
            f"to replace its scaling (factor counted from {found.original_window} tokens, not on top): "
            "allow_rescaling=true"
        ),
    )


_WINDOW_KEYS = {"original_max_position_embeddings", "max_position_embeddings"}


def _with_windows(model: ModelConfig, found: ContextExtension) -> ContextExtension | None:
    """The checkpoint's extension between the YAML's two windows; None if its positions would be others."""
    original, target = model.original_max_position_embeddings, model.max_position_embeddings
    if original is None or target is None:
        return None
    try:
        other = replace(found, original_window=original, target_window=target)
    except ConfigError:
        return None  # the factor is not theirs
    return other if _same_positions(found, other) else None


def _differing(
    model: ModelConfig, method: str | None, factor: float | None, found: ContextExtension
) -> dict[str, object]:
    """What the YAML asks for and the checkpoint does not hold, by key."""
    asked: dict[str, tuple[object, object]] = {
        "max_position_embeddings": (model.max_position_embeddings, found.target_window),
        "pos_scaling_factor": (factor, found.factor),
        "pos_scaling_type": (method, found.method),
        "original_max_position_embeddings": (model.original_max_position_embeddings, found.original_window),
        "rotary_base": (model.rotary_base, found.base),
        "rotary_percentage": (model.rotary_percentage, found.rotary_percent),
        "rotary_interleaved": (model.rotary_interleaved, found.interleaved),
    }
    differing = {key: given for key, (given, held) in asked.items() if given is not None and given != held}
    if not differing and model.pos_scaling_extra_args and not _same_with(model.pos_scaling_extra_args, found):
        differing["pos_scaling_extra_args"] = model.pos_scaling_extra_args
    return differing


def _same_with(extra_args: dict[str, object], found: ContextExtension) -> bool:
    """Whether positions stay the same with these arguments: defaults may be written out or left out."""
    other = ContextExtension.from_dict({**found.to_dict(), "extra_args": extra_args})
    return _same_positions(found, other)


def _same_positions(found: ContextExtension, other: ContextExtension) -> bool:
    windows = {w for spec in (found, other) for w in (spec.original_window, spec.target_window)}
    return all(
        attention_factor(found, length) == attention_factor(other, length)
        and torch.equal(inverse_frequencies(found, length), inverse_frequencies(other, length))
        for length in (*windows, max(windows) + 1)
    )
