"""Hugging Face's spelling of what differs from layer to layer, and of queries that grow."""

from __future__ import annotations

from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods.hf_rope import HfRope, unusable
from nemo_pi.rope.query_scale import QueryScale
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.validation import is_finite

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layers in `layer_types`, and the names of their sets in `rope_parameters`."""
SCALE_BETA = "llama_4_scaling_beta"
"""Entry of the numbers that queries grow by; the window beside it is original_max_position_embeddings."""


def set_of(kind: ContextExtension) -> dict[str, Any]:
    """The entries of one kind of layer.

    Raises:
        ConfigError: Hugging Face has no words for its method, or for two windows.
    """
    rope = kind.scaling.to_hf(kind.numbers)
    if kind.rotary_percent != 1.0:
        rope["partial_rotary_factor"] = kind.rotary_percent
    if kind.query_scale is not None:
        rope[SCALE_BETA] = kind.query_scale.beta
        original = rope.setdefault("original_max_position_embeddings", kind.query_scale.window)
        if original != kind.query_scale.window:
            raise ConfigError(
                "original_window",
                required=f"{kind.query_scale.window}, the window by which queries grow: transformers has one "
                "entry for both",
                given=original,
                fix="keep the model as a distributed checkpoint and leave the export folder out",
            )
    return rope


def check_one_window(sliding: ContextExtension, window: int) -> None:
    """Both kinds of layers read the same max_position_embeddings.

    Raises:
        ConfigError: scaled as they are, they would need two.
    """
    theirs = sliding.scaling.hf_window(sliding.numbers)
    if theirs != window:
        raise ConfigError(
            "target_window",
            required=f"{window} tokens in layers with a sliding window, too (transformers has one entry)",
            given=theirs,
            fix="scale layers of both kinds alike, or those with full attention alone",
        )


def read_query_scale(entries: HfRope) -> QueryScale:
    """What queries grow by; transformers stops in the first layer where one of the two is missing.

    Raises:
        CheckpointError: naming the entry.
    """
    beta, window = entries.entries.get(SCALE_BETA), entries.stated_original()
    if not is_finite(beta) or beta < 0:
        raise unusable(SCALE_BETA, "a number of at least 0", beta, "copy config.json again")
    if window is None:
        fix = "copy config.json again"
        raise unusable("original_max_position_embeddings", f"the window beside {SCALE_BETA}", window, fix)
    return QueryScale(beta, window)
