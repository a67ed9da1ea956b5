"""StableLM: LayerNorm, SwiGLU, partial rotary, biases of query, key and value or not.

From StableLM 2 12B on attention and MLP stand beside each other, behind one norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.entries import flag, hf_activation, unusable
from nemo_pi.families.kind import LayerKind
from nemo_pi.families.layer_norm import LayerNormed, final_norm_bias
from nemo_pi.families.shape import ModelShape


class StableLM(LayerNormed):
    """model_type stablelm."""

    name = "stablelm"
    architecture = "StableLmForCausalLM"
    rope_defaults: ClassVar[Mapping[str, Any]] = {"partial_rotary_factor": 0.25}
    fixed: ClassVar[Mapping[str, Any]] = {**LayerNormed.fixed, "proj_bias": False, "mlp_bias": False}
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_qkv_bias": False,
        "qk_layernorm": False,
        "use_parallel_residual": False,
    }
    last_biases = (final_norm_bias("model.norm.bias"),)

    def check_variant(self, config: Mapping[str, Any]) -> None:
        """Refuses norms of query and key, which have weights of their own in every head here."""
        super().check_variant(config)
        if flag(config, "qk_layernorm"):
            fix = "start from a checkpoint without them"
            raise unusable("qk_layernorm", "false (a norm for each single head is not supported)", True, fix)

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Activation, biases of query, key and value, and the residual."""
        return {
            **super().read_features(config),
            "qkv_bias": flag(config, "use_qkv_bias"),
            "parallel_residual": flag(config, "use_parallel_residual"),
        }

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """A gated MLP; where the residual is parallel, one norm."""
        return replace(super().layer_kind(shape), gated=True, shared_norm=shape.parallel_residual)

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {
            **self.sizes(shape),
            "num_key_value_heads": shape.num_query_groups,
            "hidden_act": hf_activation(shape.activation),
            "qk_layernorm": False,
            "use_qkv_bias": shape.qkv_bias,
            "use_parallel_residual": shape.parallel_residual,
        }
