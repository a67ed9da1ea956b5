"""A checkpoint that was extended before: kept as it is or refused, never scaled twice in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.schema import ModelConfig
from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods.abf import Abf
from nemo_pi.rope.methods.registry import UNSCALED
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies

FULL, ALL = "full", "all"
"""Values of pos_scaling_layers."""


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
        fix="; ".join([_as_it_is(model, differing, found), *_rescaled(model, method, differing, found)]),
    )


def scaled_layers(extension: ContextExtension) -> str:
    """What pos_scaling_layers would have made of an extension that is scaled."""
    sliding = extension.sliding
    return FULL if sliding is not None and not sliding.is_scaled else ALL


def own_base(base: float) -> str:
    """Overrides for the command line that compute with a base of one's own, whatever the checkpoint's is."""
    # rotary_base is the base that the checkpoint was trained with, which no YAML can change.
    return (
        f"model.rotary_base=null model.pos_scaling_type={Abf.name} "
        f"'model.pos_scaling_extra_args={{base: {float(base)!r}}}'"
    )


def _as_it_is(model: ModelConfig, differing: Collection[str], found: ContextExtension) -> str:
    """Overrides that ask for what the checkpoint holds."""
    held = {
        "max_position_embeddings": found.target_window,
        "pos_scaling_type": found.method,
        "pos_scaling_factor": repr(found.factor),
    }
    others = [key for key in differing if key not in held]
    # Whether or not they differ: arguments belong to the method that was asked for, and two factors clash.
    unwanted = ("pos_scaling_extra_args", "seq_len_interpolation_factor")
    others += [key for key in unwanted if getattr(model, key) is not None and key not in others]
    return "to train on as it is: " + _overrides({**held, **dict.fromkeys(others, "null")})


def _rescaled(
    model: ModelConfig, method: str | None, differing: Collection[str], found: ContextExtension
) -> list[str]:
    """Overrides that replace the scaling by what the YAML asks for, as far as it can be had."""
    fixed = [key for key in differing if key in _CHECKPOINT_S_OWN]
    target, factor = model.max_position_embeddings, model.pos_scaling_factor
    ways = []
    if (set(differing) - {*_ROTARY_KEYS}) and (target is None or target >= found.original_window):
        values: dict[str, object] = {"allow_rescaling": "true", **dict.fromkeys(fixed, "null")}
        if (target, factor, model.seq_len_interpolation_factor) == (None, None, None) and method != UNSCALED:
            values["max_position_embeddings"] = found.target_window
        elif target is not None and factor is not None and factor * found.original_window != target:
            values["pos_scaling_factor"] = "null"
        counted = f"factor counted from {found.original_window} tokens, not on top"
        line = f"in the YAML, `{_yaml_line(values)}`"
        ways.append(f"to replace its scaling ({counted}): {_overrides(values)} ({line})")
    if model.rotary_base is not None and "rotary_base" in differing:
        others: dict[str, object] = dict.fromkeys([key for key in fixed if key != "rotary_base"], "null")
        others |= {"allow_rescaling": "true", "pos_scaling_factor": "null"}
        others["max_position_embeddings"] = max(target or found.target_window, found.original_window)
        ways.append(f"to compute with a base of your own: {own_base(model.rotary_base)} {_overrides(others)}")
    return ways


def _overrides(values: Mapping[str, object]) -> str:
    """As the command line takes them."""
    return " ".join(f"model.{key}={value}" for key, value in values.items())


def _yaml_line(values: Mapping[str, object]) -> str:
    """As a YAML takes them."""
    return f"model: {{{', '.join(f'{key}: {value}' for key, value in values.items())}}}"


_ROTARY_KEYS = ("rotary_base", "rotary_percentage", "rotary_interleaved")
_CHECKPOINT_S_OWN = ("original_max_position_embeddings", *_ROTARY_KEYS)
"""Keys that say what the checkpoint is: rescaling changes none of them."""
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
        "pos_scaling_layers": (model.pos_scaling_layers, scaled_layers(found)),
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
