"""Kinds of layers in a config.json (`layer_types`): which ones look back a sliding window only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nemo_pi.families.entries import MOST_LAYERS, size, unusable
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.hf_kinds import FULL, SLIDING


def read_kinds(config: Mapping[str, Any], slides: Callable[[int], bool]) -> list[str]:
    """The kind of every layer: what layer_types says or, where it is silent, what `slides` does of each.

    Raises:
        CheckpointError: it is no list of the two kinds, one for each layer.
    """
    layers, kinds = size(config, "num_hidden_layers", MOST_LAYERS), config.get("layer_types")
    if kinds is None:
        kinds = [SLIDING if slides(layer) else FULL for layer in range(layers)]
    known = isinstance(kinds, list) and all(kind in (FULL, SLIDING) for kind in kinds)
    if not known or len(kinds) != layers:
        raise unusable("layer_types", f"{layers} times {FULL} or {SLIDING}", kinds)
    return list(kinds)


def windows(config: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """sliding_window and full_attention_layers of ModelShape.

    Raises:
        CheckpointError: layers slide, and sliding_window is no number of tokens.
    """
    if SLIDING not in kinds:
        return {"sliding_window": None, "full_attention_layers": ()}
    full = tuple(layer for layer, kind in enumerate(kinds) if kind == FULL)
    return {"sliding_window": size(config, "sliding_window"), "full_attention_layers": full}


def kinds_of(shape: ModelShape) -> list[str]:
    """The inverse: layer_types of a shape."""
    return [FULL if shape.window_of(layer) is None else SLIDING for layer in range(shape.num_layers)]
