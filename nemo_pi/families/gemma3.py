"""Gemma 3's language model: two rotary bases, norms around attention and MLP that multiply by 1 + weight.

Five of six layers look back a sliding window, with rotary embeddings of their own; embeddings are multiplied
by the root of their width, and the MLP's gate is a GELU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.base import Family
from nemo_pi.families.by_kind import RotaryByKind
from nemo_pi.families.entries import size, unusable
from nemo_pi.families.kind import LayerKind
from nemo_pi.families.layer_types import read_kinds, windows
from nemo_pi.families.llama import PLAIN_LAYERS, Llama
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames

_GELU = "gelu_pytorch_tanh"


class Gemma3(RotaryByKind, Llama):
    """model_type gemma3_text."""

    name = "gemma3_text"
    architecture = "Gemma3ForCausalLM"
    by_features = False
    fixed: ClassVar[Mapping[str, Any]] = {
        **{key: value for key, value in PLAIN_LAYERS.items() if key != "attention_multiplier"},
        "qk_norm": True,
        "activation": "gelu_tanh",
        "unrotated_layers": (),
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": _GELU,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    layer_names = LayerNames(mlp_norm="pre_feedforward_layernorm")
    full_theta, sliding_theta = 1e6, 1e4
    sliding_theta_key = "rope_local_base_freq"
    rope_keys = (*Family.rope_keys, sliding_theta_key)

    def check_variant(self, config: Mapping[str, Any]) -> None:
        """Refuses Gemma 2's caps, attention that looks ahead, biases and other activations."""
        super().check_variant({**config, "hidden_act": "silu"})
        if config["hidden_activation"] != _GELU:
            fix = "start from a checkpoint as Gemma 3 was published"
            raise unusable("hidden_activation", _GELU, config["hidden_activation"], fix)
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if config[key] is not None:
                raise unusable(key, "null (caps are not supported)", config[key], "start from a Gemma 3")
        if config.get("use_bidirectional_attention"):
            fix = "start from a language model: this one was made for embeddings"
            raise unusable("use_bidirectional_attention", "false", True, fix)

    def read_windows(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The layers that layer_types names or, where it is silent, all but every sixth (or as the older
        sliding_window_pattern says)."""
        pattern = size({"sliding_window_pattern": 6, **config}, "sliding_window_pattern")
        return windows(config, read_kinds(config, lambda layer: (layer + 1) % pattern != 0))

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What scores are divided by is the root of query_pre_attn_scalar, which need not be head_dim."""
        return {"attention_multiplier": size(config, "query_pre_attn_scalar") ** -0.5}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        entries = super().shape_entries(shape)
        del entries["hidden_act"], entries["mlp_bias"]  # Gemma 3 has no such options
        scale = shape.attention_multiplier
        return {
            **entries,
            "hidden_activation": _GELU,
            "query_pre_attn_scalar": shape.head_dim if scale is None else round(scale**-2),
            **self.kind_entries(shape),
        }

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """Norms before and behind attention and MLP, all zero-centred, and scaled embeddings."""
        kind = super().layer_kind(shape)
        return replace(kind, norms_after=True, zero_centered=True, embedding_scale=shape.hidden_size**0.5)
