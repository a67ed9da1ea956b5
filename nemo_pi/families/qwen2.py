"""Qwen2 and Qwen2.5: a Llama with biases in query, key and value; some layers may have a sliding window.

Shape legend: N query heads, G key/value groups, D head dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nemo_pi.families.entries import flag, size, unusable
from nemo_pi.families.llama import HF_LAYER, Llama, qkv_rows
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import LAYER, WeightRule

_FULL, _SLIDING = "full_attention", "sliding_attention"


class Qwen2(Llama):
    """model_type qwen2."""

    name = "qwen2"
    architecture = "Qwen2ForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {"qkv_bias": True, "qk_norm": False}
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
        none = {"sliding_window": None, "full_attention_layers": ()}
        if not flag(config, "use_sliding_window") or config["sliding_window"] is None:
            return none
        layers, kinds = size(config, "num_hidden_layers"), config["layer_types"]
        if kinds is None:
            first = config["max_window_layers"]
            if isinstance(first, bool) or not isinstance(first, int) or first < 0:
                raise unusable("max_window_layers", "a number of layers", first)
            kinds = [_FULL if layer < first else _SLIDING for layer in range(layers)]
        known = isinstance(kinds, list) and all(kind in (_FULL, _SLIDING) for kind in kinds)
        if not known or len(kinds) != layers:
            raise unusable("layer_types", f"{layers} times {_FULL} or {_SLIDING}", kinds)
        if _SLIDING not in kinds:
            return none
        full = tuple(layer for layer, kind in enumerate(kinds) if kind == _FULL)
        return {"sliding_window": size(config, "sliding_window"), "full_attention_layers": full}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says; the layers' windows in both spellings."""
        entries = super().shape_entries(shape)
        del entries["attention_bias"], entries["mlp_bias"]  # Qwen2 has no such options
        kinds = [_FULL if shape.window_of(layer) is None else _SLIDING for layer in range(shape.num_layers)]
        first = kinds.index(_SLIDING) if _SLIDING in kinds else shape.num_layers
        return {
            **entries,
            "use_sliding_window": shape.sliding_window is not None,
            "sliding_window": shape.sliding_window,
            "max_window_layers": first,
            "layer_types": kinds,
        }

    def layer_rules(self, shape: ModelShape) -> tuple[WeightRule, ...]:
        """Llama's table and the biases, which are fused as the rows that they are added to."""
        if not shape.qkv_bias:
            return super().layer_rules(shape)
        biases = WeightRule(
            LAYER + "self_attention.linear_qkv.bias",
            tuple(f"{HF_LAYER}self_attn.{part}_proj.bias" for part in "qkv"),
            lambda shape: tuple((rows,) for rows in qkv_rows(shape)),
            split_dim=0,
            by_group=True,
            rotated=(0, 1),
        )
        return (*super().layer_rules(shape), biases)
