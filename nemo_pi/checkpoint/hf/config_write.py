"""config.json of an export: sizes and positions as they are now, everything else as the source had it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nemo_pi.checkpoint.hf.config import extension_from_config, shape_from_config
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.families.inert import without_code
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.hf import OTHER_WINDOWS
from nemo_pi.rope.spec import ContextExtension


def build_config(
    shape: ModelShape, extension: ContextExtension, source: HuggingFaceSource | None, dtype: str | None
) -> dict[str, Any]:
    """config.json of an export.

    Args:
        shape: sizes; they replace the source's only where they differ.
        extension: positions. Where the source says the same already, its own spelling is kept.
        source: what the weights came from; all other fields of its config.json are preserved, save
            those that name code.
        dtype: name of the weights' storage dtype; None where each tensor keeps the source's.
    """
    family = family_of(shape)
    if source is None:
        config: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.name}
    else:
        config = without_code(source.config)  # the .py files that it may name are not copied
    found = None if source is None else shape_from_config(source.config)
    same_family = found is not None and found.family == shape.family
    if found is not None and not same_family:
        config = _as_family(config, found, shape)
    elif found != shape:
        config.update(family.shape_entries(shape))
    # The weights beside a config.json are in the family's order of channels, whatever was trained.
    as_stored = replace(extension, interleaved=family.interleaved)
    if source is None or not same_family or extension_from_config(source.config, shape) != as_stored:
        for key in (*family.rope_keys, *OTHER_WINDOWS):
            config.pop(key, None)
        config.update(family.extension_entries(as_stored))
    if dtype is not None and (source is None or source.dtype != dtype):
        # The older spelling of the same entry would contradict the new one.
        config.pop("torch_dtype", None)
        config["dtype"] = dtype
    return config


def _as_family(config: dict[str, Any], found: ModelShape, shape: ModelShape) -> dict[str, Any]:
    """config.json of a model of another family: what says how it is built is written anew."""
    own, family = family_of(found), family_of(shape)
    spent = {*own.shape_entries(found), *own.rope_keys, *OTHER_WINDOWS, "architectures", "model_type"}
    kept = {key: value for key, value in config.items() if key not in spent}
    name = {"architectures": [family.architecture], "model_type": family.name}
    return {**name, **kept, **family.shape_entries(shape)}
