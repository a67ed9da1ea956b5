"""GPT-NeoX and Pythia: attention and MLP beside each other or not; query, key and value of each head in one
tensor; partial rotary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.families.entries import flag, hf_activation
from nemo_pi.families.kind import LayerKind
from nemo_pi.families.layer_norm import LayerNormed, both, final_norm_bias
from nemo_pi.families.llama import Llama
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames, hidden_sizes, vocabulary_sizes
from nemo_pi.families.weights import WeightRule
from nemo_pi.rope.spec import ContextExtension

# transformers' GPTNeoXConfig reads these where other classes read rope_theta and partial_rotary_factor.
_BASE, _PART = "rotary_emb_base", "rotary_pct"


class GPTNeoX(LayerNormed):
    """model_type gpt_neox."""

    name = "gpt_neox"
    architecture = "GPTNeoXForCausalLM"
    rope_defaults: ClassVar[Mapping[str, Any]] = {"partial_rotary_factor": 0.25}
    rope_keys = (*Llama.rope_keys, _BASE, _PART)
    fixed: ClassVar[Mapping[str, Any]] = {**LayerNormed.fixed, "mlp_bias": True}
    usual: ClassVar[Mapping[str, Any]] = {
        "activation": "gelu",
        "parallel_residual": True,
        "qkv_bias": True,
        "proj_bias": True,
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "attention_bias": True,
    }
    # A head's query, key and value stand together, which is how Megatron fuses groups of one head each.
    layer_names = LayerNames(
        layer="gpt_neox.layers.{n}.",
        qkv=("attention.query_key_value",),
        proj="attention.dense",
        fc1=("mlp.dense_h_to_4h",),
        fc2="mlp.dense_4h_to_h",
    )
    embedding = replace(Llama.embedding, huggingface=("gpt_neox.embed_in.weight",))
    final_norm = WeightRule(
        "decoder.final_layernorm.weight", ("gpt_neox.final_layer_norm.weight",), hidden_sizes, None
    )
    # transformers calls the module lm_head, and its tensor in files as ever.
    output = WeightRule("output_layer.weight", ("embed_out.weight",), vocabulary_sizes, 0)
    last_biases = (final_norm_bias("gpt_neox.final_layer_norm.bias"),)

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Activation, biases of attention, and the residual."""
        parallel = {"parallel_residual": flag(config, "use_parallel_residual")}
        return {**super().read_features(config), **both(config, "attention_bias"), **parallel}

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """Two norms, whichever way the residual runs."""
        return replace(super().layer_kind(shape), shared_norm=False)

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {
            **self.sizes(shape),
            "hidden_act": hf_activation(shape.activation),
            "attention_bias": shape.proj_bias,
            "use_parallel_residual": shape.parallel_residual,
        }

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """How the checkpoint's positions are made; a rope_theta at the top level is nobody's there."""
        names = {"rope_theta": _BASE, "partial_rotary_factor": _PART}
        given = {name: config.get(key) for name, key in names.items()}
        return super().read_extension({**config, **given}, shape)

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """In both spellings."""
        entries = super().extension_entries(extension)
        part, base = entries.pop("partial_rotary_factor"), entries.pop("rope_theta")
        return {**entries, _BASE: base, _PART: part}
