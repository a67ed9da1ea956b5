"""GLM-4 of April 2025 (0414): norms before and behind attention and MLP, half of each head rotated, in
neighbouring channels; gate and up in one tensor, biases of query, key and value or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.entries import flag
from nemo_pi.families.kind import LayerKind
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames
from nemo_pi.rope.spec import ContextExtension


class Glm4(Llama):
    """model_type glm4."""

    name = "glm4"
    architecture = "Glm4ForCausalLM"
    interleaved = True
    rotates_parts = True
    by_features = False
    rope_defaults: ClassVar[Mapping[str, Any]] = {"partial_rotary_factor": 0.5}
    layer_names = LayerNames(
        fc1=("mlp.gate_up_proj",) * 2, norms_after=("post_self_attn_layernorm", "post_mlp_layernorm")
    )
    fixed: ClassVar[Mapping[str, Any]] = {
        key: value for key, value in Llama.fixed.items() if key != "qkv_bias"
    }
    usual: ClassVar[Mapping[str, Any]] = {"qkv_bias": True}
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1.5625e-07,
        "tie_word_embeddings": False,
        "attention_bias": True,
    }

    def check_variant(self, config: Mapping[str, Any]) -> None:
        """As Llama's, but that attention_bias is an option here."""
        super().check_variant({**config, "attention_bias": False})

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """attention_bias: query, key and value have biases, and the output projection has none."""
        return {"qkv_bias": flag(config, "attention_bias")}

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """A part that is null is no missing one: transformers rotates whole heads there."""
        if config.get("partial_rotary_factor", ...) is None:
            config = {**config, "partial_rotary_factor": 1.0}
        return super().read_extension(config, shape)

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        entries = super().shape_entries(shape)
        del entries["mlp_bias"]  # GLM-4 has no such option
        return {**entries, "attention_bias": shape.qkv_bias}

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """Norms before and behind attention and MLP."""
        return replace(super().layer_kind(shape), norms_after=True)
