"""What differs from layer to layer: which kinds of layers an extension scales, and how queries grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.rescaling import ALL, FULL
from nemo_pi.config.schema import ModelConfig
from nemo_pi.config.shapes import check_choice
from nemo_pi.errors import ConfigError
from nemo_pi.families.registry import families, family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.methods.registry import UNSCALED
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.validation import did_you_mean

_SLIDING_KEYS = ("base", "method", "factor", "extra_args", "original_window", "target_window")


def with_kinds(
    model: ModelConfig, shape: ModelShape, summary: CheckpointSummary | None, extension: ContextExtension
) -> ContextExtension:
    """The extension of full-attention layers, completed by that of the others and by the scale of queries.

    Args:
        model, shape, summary: as resolve_extension takes them.
        extension: what the YAML asks for.

    Raises:
        ConfigError: the layers that shall be scaled cannot be told apart, or a key that disagrees with the
            checkpoint or with the model's family.
    """
    if summary is None:
        own, scale = _sliding_from_yaml(model, shape, extension), _scale_from_yaml(model, shape)
    else:
        own, scale = summary.extension.sliding, summary.extension.query_scale
    layers = _scaled_layers(model, shape, own)
    if own is not None and layers is not None:
        scaled = extension if layers == ALL else _unscaled(extension)
        own = replace(scaled, base=own.base)
    return replace(extension, sliding=own, query_scale=scale)


def check_agrees(model: ModelConfig, summary: CheckpointSummary | None) -> None:
    """Refuses keys about the checkpoint's own layers that say something else than it does.

    Raises:
        ConfigError: naming the key.
    """
    if summary is None:
        return
    found = summary.extension
    held = {
        "sliding_rotary": None if found.sliding is None else found.sliding.to_dict(),
        "query_scaling": None if found.query_scale is None else found.query_scale.to_dict(),
    }
    for key, values in held.items():
        given: Mapping[str, Any] | None = getattr(model, key)
        if given and any((values or {}).get(name) != value for name, value in given.items()):
            raise ConfigError(
                f"model.{key}",
                required=f"what the {summary.kind} checkpoint {summary.path} says: {values}",
                given=dict(given),
                fix=f"model.{key}=null takes the checkpoint's",
            )


def sliding_section(extension: ContextExtension) -> dict[str, Any] | None:
    """The value of model.sliding_rotary that says what an extension says of layers with a sliding window."""
    if extension.sliding is None:
        return None
    values = extension.sliding.to_dict()
    return {key: values[key] for key in _SLIDING_KEYS}


def _scaled_layers(model: ModelConfig, shape: ModelShape, own: ContextExtension | None) -> str | None:
    """full or all; None: layers with a sliding window stay as they are stated."""
    given, sliding = model.pos_scaling_layers, len(shape.sliding_layers)
    if given is not None:
        check_choice("model.pos_scaling_layers", given, (FULL, ALL))
    if given == FULL and sliding and own is None:
        raise ConfigError(
            "model.pos_scaling_layers",
            required=f"{ALL} or null: the layers of a {shape.family} share their rotary embeddings",
            given=given,
            fix=f"model.pos_scaling_layers={ALL}",
        )
    if given == FULL and sliding == shape.num_layers:
        raise ConfigError(
            "model.pos_scaling_layers",
            required=f"{ALL} or null: every layer of this model has a sliding window",
            given=given,
            fix=f"model.pos_scaling_layers={ALL}",
        )
    if given is not None or own is None:
        return given
    if own.is_scaled or sliding == shape.num_layers:
        return None if model.sliding_rotary else ALL
    return FULL


def _unscaled(extension: ContextExtension) -> ContextExtension:
    """Plain rotary positions over the same windows."""
    return replace(extension, method=UNSCALED, factor=1.0, extra=())


def _sliding_from_yaml(
    model: ModelConfig, shape: ModelShape, extension: ContextExtension
) -> ContextExtension | None:
    """What the YAML of a model without a checkpoint says of layers with a sliding window."""
    given, family = model.sliding_rotary, family_of(shape)
    if not shape.sliding_layers or not family.rotary_by_kind:
        if given:
            able = [each.name for each in families() if each.rotary_by_kind]
            raise ConfigError(
                "model.sliding_rotary",
                required=f"null, or a sliding_window in a family of {', '.join(able) or 'another package'}",
                given=dict(given),
                fix="model.sliding_rotary=null",
            )
        return None
    for key in given or {}:
        if key not in _SLIDING_KEYS:
            fix = did_you_mean(key, _SLIDING_KEYS)
            raise ConfigError("model.sliding_rotary", required="known names", given=repr(key), fix=fix)
    try:
        return ContextExtension.from_dict({**_unscaled(extension).to_dict(), **(given or {})})
    except ConfigError as error:
        raise error.respelled({key: f"model.sliding_rotary.{key}" for key in _SLIDING_KEYS}) from error


def _scale_from_yaml(model: ModelConfig, shape: ModelShape) -> QueryScale | None:
    if model.query_scaling is None:
        return None
    if not family_of(shape).scales_queries:
        able = [each.name for each in families() if each.scales_queries]
        raise ConfigError(
            "model.query_scaling",
            required=f"null in a {shape.family}: its queries do not grow; those of {', '.join(able)} do",
            given=dict(model.query_scaling),
            fix=f"model.query_scaling=null, or model.family={able[0]}",
        )
    return QueryScale.from_dict(model.query_scaling)
