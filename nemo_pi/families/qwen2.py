"""Qwen2 and Qwen2.5: a Llama with biases in query, key and value; some layers may have a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_pi.families.entries import flag, unusable
from nemo_pi.families.layer_types import kinds_of, read_kinds, windows
from nemo_pi.families.llama import PLAIN_LAYERS, Llama
from nemo_pi.families.shape import ModelShape


class Qwen2(Llama):
    """model_type qwen2."""

    name = "qwen2"
    architecture = "Qwen2ForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        **PLAIN_LAYERS,
        "qkv_bias": True,
        "unrotated_layers": (),
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 32,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
    }

    def read_windows(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A window only where use_sliding_window asks for it, and there in the layers that layer_types names
        or, where it is silent, from layer max_window_layers on."""
        if not flag(config, "use_sliding_window") or config["sliding_window"] is None:
            return {"sliding_window": None, "full_attention_layers": ()}
        first = config["max_window_layers"]
        if config["layer_types"] is None and (
            isinstance(first, bool) or not isinstance(first, int) or first < 0
        ):
            raise unusable("max_window_layers", "a number of layers", first)
        return windows(config, read_kinds(config, lambda layer: layer >= first))

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says; the layers' windows in both spellings."""
        entries = super().shape_entries(shape)
        del entries["attention_bias"], entries["mlp_bias"]  # Qwen2 has no such options
        first = min(shape.sliding_layers, default=shape.num_layers)
        return {
            **entries,
            "use_sliding_window": shape.sliding_window is not None,
            "sliding_window": shape.sliding_window,
            "max_window_layers": first,
            "layer_types": kinds_of(shape),
        }
