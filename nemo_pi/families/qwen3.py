"""Qwen3 (dense): query and key are normalised head by head before they are rotated; no biases.

Shape legend: D head dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.base import KeptChannels
from nemo_pi.families.llama import HF_LAYER, qkv_rows
from nemo_pi.families.qwen2 import Qwen2
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import LAYER, WeightRule


class Qwen3(Qwen2):
    """model_type qwen3."""

    name = "qwen3"
    architecture = "Qwen3ForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        "qkv_bias": False,
        "qk_norm": True,
        "unrotated_layers": (),
    }
    defaults: ClassVar[Mapping[str, Any]] = {**Qwen2.defaults, "head_dim": 128, "attention_bias": False}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {**super().shape_entries(shape), "attention_bias": False}

    def layer_rules(self, shape: ModelShape) -> tuple[WeightRule, ...]:
        """Llama's table and the two norms [D], whose channels follow the order of the heads they scale."""
        norms = (
            WeightRule(
                f"{LAYER}self_attention.{part}_layernorm.weight",
                (f"{HF_LAYER}self_attn.{part}_norm.weight",),
                lambda shape: ((shape.head_dim,),),
                split_dim=None,
                rotated=(0,),
            )
            for part in "qk"
        )
        return (*super().layer_rules(shape), *norms)

    def kept_channels(self, shape: ModelShape) -> KeptChannels:
        """Beside Llama's, the norms' inputs: the fused projection's output stays, and with fewer key than
        query heads so does the copy that brings the query's heads onto one axis."""
        kept = super().kept_channels(shape)
        query, key, _ = qkv_rows(shape)
        copied = query if shape.num_query_groups < shape.num_attention_heads else 0
        return replace(kept, attention=kept.attention + query + key + copied)
