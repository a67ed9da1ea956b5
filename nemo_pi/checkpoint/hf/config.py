"""config.json in our terms: what sizes, how positions are made; what is a family's own, its family says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_pi.families.entries import MOST_LAYERS, size
from nemo_pi.families.registry import family_of, family_of_config
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.hf import RECORD
from nemo_pi.rope.hf_kinds import FULL
from nemo_pi.rope.spec import ContextExtension


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """Sizes from config.json, with transformers' defaults where it is silent.

    Raises:
        CheckpointError: an architecture that is not supported, or sizes missing or impossible.
    """
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if isinstance(
            config.get(key), int
        ):  # whichever the family reads, and makes lists of that length from
            size(config, key, MOST_LAYERS)
    return family_of_config(config).read_shape(config)


def extension_from_config(config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
    """How the checkpoint's positions are made.

    Raises:
        CheckpointError: rotary values that are missing or contradict each other.
    """
    return family_of(shape).read_extension(config, shape)


def window_source(config: Mapping[str, Any], extension: ContextExtension) -> str:
    """The key of config.json that `extension.original_window` was read from."""
    record = config.get(RECORD)
    if (
        isinstance(record, Mapping)
        and {**record, "interleaved": extension.interleaved} == extension.to_dict()
    ):
        return f"{RECORD}.original_window"
    family = family_of_config(config)
    if extension.is_scaled:
        outer = () if family.rotary_by_kind else ("original_max_position_embeddings",)
        for key in (*outer, "rope_parameters", "rope_scaling"):
            entry = config.get(key)
            if isinstance(entry, int):
                return key
            for kind in ("", f".{FULL}"):
                entry = entry.get(FULL) if kind and isinstance(entry, Mapping) else entry
                if isinstance(entry, Mapping) and "original_max_position_embeddings" in entry:
                    return f"{key}{kind}.original_max_position_embeddings"
    key = family.window_key if family.window_key in config else "max_position_embeddings"
    if config.get(key) is None:
        return f"{key}, which is not there: the window that {family.architecture} assumes"
    return key + (" / factor" if extension.original_window != config[key] else "")
