"""GPT-J: attention and MLP read the same normed residual, and rotated channels of a head are neighbours.

transformers' class knows no scaling and no base but its own. A Phi whose attention has biases of 0 computes
the same, with the channels of heads in another order: that is what a scaled GPT-J is exported as.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from nemo_pi.errors import CheckpointError
from nemo_pi.families.entries import MOST_LAYERS, activation, epsilon, hf_activation, size, unusable
from nemo_pi.families.kind import LayerKind
from nemo_pi.families.layer_norm import LayerNormed, final_norm_bias
from nemo_pi.families.llama import Llama
from nemo_pi.families.phi import Phi
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames, hidden_sizes
from nemo_pi.families.weights import WeightRule
from nemo_pi.rope.hf import RECORD
from nemo_pi.rope.spec import ContextExtension

_BASE = 10000.0  # a constant of its class
_WINDOW, _ROTATED = "n_positions", "rotary_dim"
# transformers takes the usual names as well as GPT-J's own.
_ALSO = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": _WINDOW,
}


class GPTJ(LayerNormed):
    """model_type gptj."""

    name = "gptj"
    architecture = "GPTJForCausalLM"
    interleaved = True
    fixed: ClassVar[Mapping[str, Any]] = {
        **LayerNormed.fixed,
        "qkv_bias": False,
        "proj_bias": False,
        "mlp_bias": True,
        "parallel_residual": True,
    }
    usual: ClassVar[Mapping[str, Any]] = {"activation": "gelu_tanh"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        _ROTATED: 64,
    }
    rope_defaults: ClassVar[Mapping[str, Any]] = {}
    window_key = _WINDOW
    rope_keys = (*Llama.rope_keys, _WINDOW, _ROTATED)
    layer_names = LayerNames(
        layer="transformer.h.{n}.",
        input_norm="ln_1",
        qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        proj="attn.out_proj",
        fc1=("mlp.fc_in",),
        fc2="mlp.fc_out",
    )
    embedding = replace(Llama.embedding, huggingface=("transformer.wte.weight",))
    final_norm = WeightRule(
        "decoder.final_layernorm.weight", ("transformer.ln_f.weight",), hidden_sizes, None
    )
    last_biases = (final_norm_bias("transformer.ln_f.bias"), Phi.last_biases[1])

    def read_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Sizes from config.json under GPT-J's names, with transformers' defaults where it is silent."""
        config = {**self.defaults, **_own_names(config)}
        hidden = size(config, "n_embd")
        inner = 4 * hidden if config["n_inner"] is None else size(config, "n_inner")
        # Checked here by the names that the file has.
        activation(config, "activation_function")
        return super().read_shape(
            {
                "hidden_size": hidden,
                "num_hidden_layers": size(config, "n_layer", MOST_LAYERS),
                "num_attention_heads": size(config, "n_head"),
                "intermediate_size": inner,
                "hidden_act": config["activation_function"],
                self.epsilon_key: epsilon(config, "layer_norm_epsilon"),
                **{key: config.get(key) for key in ("vocab_size", "tie_word_embeddings")},
            }
        )

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {
            "n_embd": shape.hidden_size,
            "n_inner": shape.ffn_hidden_size,
            "n_layer": shape.num_layers,
            "n_head": shape.num_attention_heads,
            "activation_function": hf_activation(shape.activation),
            "layer_norm_epsilon": shape.norm_epsilon,
            "tie_word_embeddings": shape.tied_embeddings,
            "vocab_size": shape.vocab_size,
        }

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """One norm for attention and MLP, and a bias for the logits, too."""
        return replace(super().layer_kind(shape), shared_norm=True, output_bias=True)

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """Plain RoPE over n_positions by a base that no entry changes.

        Raises:
            CheckpointError: entries that transformers' class would ignore, or no part of a head to rotate.
        """
        config = {**self.defaults, **_own_names(config)}
        for key in ("rope_scaling", "rope_parameters", "rope_theta"):
            if config.get(key) is not None:
                required = f"absent: transformers' GPT-J rotates by the base {_BASE:g} whatever it says"
                raise unusable(key, required, config[key], "remove it, and name the scaling in the YAML")
        channels = size(config, _ROTATED)
        if channels > shape.head_dim or channels % 2:
            raise unusable(
                _ROTATED, f"an even number up to the {shape.head_dim} channels of a head", channels
            )
        entries = {
            "max_position_embeddings": size(config, _WINDOW),
            "partial_rotary_factor": channels / shape.head_dim,
            RECORD: config.get(RECORD),
        }
        return super().read_extension(entries, shape)

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """The window and the channels under GPT-J's names, and what was extended without any scaling."""
        entries = super().extension_entries(extension)
        record = {key: value for key, value in entries.items() if key == RECORD}
        return {_WINDOW: entries["max_position_embeddings"], _ROTATED: extension.rotary_dim, **record}

    def check_exportable(self, extension: ContextExtension) -> None:
        """Refuses every scaling and every other base: its class has neither."""
        if extension.is_scaled or extension.base != _BASE:
            raise CheckpointError(
                "model.export.architecture",
                required=f"another class than {self.architecture}, which rotates by the base {_BASE:g} alone",
                given=f"{extension.method} by {extension.factor:g}, base {extension.base:g}",
                fix="model.export.architecture=auto writes the same function as a Phi",
            )
        super().check_exportable(extension)

    def same_function(self, shape: ModelShape) -> tuple[ModelShape, ...]:
        """A Phi without biases in attention, which has to write them: zeros."""
        return (replace(shape, family=Phi.name, qkv_bias=True, proj_bias=True),)


def _own_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with GPT-J's own names, which win."""
    given = {_ALSO[key]: value for key, value in config.items() if key in _ALSO}
    return {**given, **{key: value for key, value in config.items() if key not in _ALSO}}
