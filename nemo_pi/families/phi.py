"""Phi-1, 1.5 and 2: attention and MLP read the same normed residual; biases everywhere; partial rotary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.entries import flag, hf_activation
from nemo_pi.families.kind import LayerKind
from nemo_pi.families.layer_norm import LayerNormed, final_norm_bias
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames, hidden_sizes, vocabulary_bias_sizes
from nemo_pi.families.weights import WeightRule


class Phi(LayerNormed):
    """model_type phi."""

    name = "phi"
    architecture = "PhiForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        **{key: value for key, value in LayerNormed.fixed.items() if key != "qk_norm"},
        "qkv_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "parallel_residual": True,
    }
    usual: ClassVar[Mapping[str, Any]] = {"activation": "gelu_tanh"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "qk_layernorm": False,
    }
    layer_names = LayerNames(
        query_key_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        proj="self_attn.dense",
        fc1=("mlp.fc1",),
        fc2="mlp.fc2",
    )
    final_norm = WeightRule(
        "decoder.final_layernorm.weight", ("model.final_layernorm.weight",), hidden_sizes, None
    )
    last_biases = (
        final_norm_bias("model.final_layernorm.bias"),
        WeightRule("output_layer.bias", ("lm_head.bias",), vocabulary_bias_sizes, 0),
    )

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Activation, and norms of query and key."""
        return {**super().read_features(config), "qk_norm": flag(config, "qk_layernorm")}

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """One norm for attention and MLP, and a bias for the logits, too."""
        return replace(super().layer_kind(shape), shared_norm=True, output_bias=True)

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {
            **self.sizes(shape),
            "num_key_value_heads": shape.num_query_groups,
            "hidden_act": hf_activation(shape.activation),
            "qk_layernorm": shape.qk_norm,
        }
