"""What Phi, StableLM, Nemotron, GPT-NeoX and GPT-J share: LayerNorm, and rotary on a part of each head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.entries import activation, flag, size, unusable
from nemo_pi.families.kind import LAYER_NORM, LayerKind
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import hidden_sizes
from nemo_pi.families.weights import WeightRule


def final_norm_bias(name: str) -> WeightRule:
    """The row of the last norm's bias, by Hugging Face's name of it."""
    return WeightRule("decoder.final_layernorm.bias", (name,), hidden_sizes, None)


# What these families differ in, or their models.
_OWN = ("activation", "parallel_residual", "qkv_bias", "proj_bias", "mlp_bias")


class LayerNormed(Llama):
    """Not a family by itself; an MLP without gate unless a subclass says otherwise."""

    by_features = False
    rotates_parts = True
    epsilon_key = "layer_norm_eps"
    fixed: ClassVar[Mapping[str, Any]] = {key: value for key, value in Llama.fixed.items() if key not in _OWN}
    rope_defaults: ClassVar[Mapping[str, Any]] = {"partial_rotary_factor": 0.5}

    def check_variant(self, config: Mapping[str, Any]) -> None:
        """Refuses a width of heads that transformers takes for the rotation alone."""
        derived = size(config, "hidden_size") // size(config, "num_attention_heads")
        if config.get("head_dim") not in (None, derived) and "head_dim" not in self.defaults:
            required = f"absent, or hidden_size / num_attention_heads = {derived}"
            raise unusable("head_dim", required, config["head_dim"])

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The activation; subclasses add biases and the residual."""
        return {"activation": activation(config, "hidden_act")}

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """LayerNorm with biases, and an MLP without gate."""
        return replace(super().layer_kind(shape), norm=LAYER_NORM, gated=False)


def both(config: Mapping[str, Any], key: str) -> dict[str, bool]:
    """One entry for the biases of all of attention's projections."""
    return dict.fromkeys(("qkv_bias", "proj_bias"), flag(config, key))
