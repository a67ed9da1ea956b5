"""Nemotron-3/4 and Minitron: LayerNorm with weights around 0 (layernorm1p), squared ReLU without gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.entries import flag, hf_activation
from nemo_pi.families.kind import LayerKind
from nemo_pi.families.layer_norm import LayerNormed, both, final_norm_bias
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames


class Nemotron(LayerNormed):
    """model_type nemotron."""

    name = "nemotron"
    architecture = "NemotronForCausalLM"
    epsilon_key = "norm_eps"
    fixed: ClassVar[Mapping[str, Any]] = {**LayerNormed.fixed, "parallel_residual": False}
    usual: ClassVar[Mapping[str, Any]] = {"activation": "relu2"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "relu2",
        "norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    }
    layer_names = LayerNames(fc1=("mlp.up_proj",))
    last_biases = (final_norm_bias("model.norm.bias"),)

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Activation and biases."""
        biases = {**both(config, "attention_bias"), "mlp_bias": flag(config, "mlp_bias")}
        return {**super().read_features(config), **biases}

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """Norms whose weights count from 1."""
        return replace(super().layer_kind(shape), zero_centered=True)

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {
            **self.sizes(shape),
            "num_key_value_heads": shape.num_query_groups,
            "head_dim": shape.head_dim,
            "hidden_act": hf_activation(shape.activation),
            "attention_bias": shape.proj_bias,
            "mlp_bias": shape.mlp_bias,
        }
