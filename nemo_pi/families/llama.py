"""Llama 1 to 3.x and what shares its config.json: CodeLlama, Yi, Vicuna, …

RMSNorm, SwiGLU, grouped-query attention over whole rotated heads, no biases. Several other families are a
Llama with a difference: they subclass it.

Shape legend: H hidden size, N query heads, G key/value groups, D head dim, F feed-forward size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch.nn.functional import silu

from nemo_pi.errors import CheckpointError
from nemo_pi.families.base import Family, KeptChannels
from nemo_pi.families.entries import MOST_LAYERS, epsilon, flag, size, unusable
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import LAYER, Sizes, WeightRule
from nemo_pi.rope.spec import ContextExtension

HF_LAYER = "model.layers.{n}."
"""How Hugging Face's names of a layer's tensors begin."""


def qkv_rows(shape: ModelShape) -> tuple[int, int, int]:
    """Rows of the query, key and value projections: N·D, G·D, G·D."""
    key = shape.num_query_groups * shape.head_dim
    return shape.num_attention_heads * shape.head_dim, key, key


def _norm(shape: ModelShape) -> tuple[Sizes, ...]:
    return ((shape.hidden_size,),)


def _vocabulary(shape: ModelShape) -> tuple[Sizes, ...]:
    return ((shape.vocab_size, shape.hidden_size),)


class Llama(Family):
    """model_type llama."""

    name = "llama"
    architecture = "LlamaForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        "qkv_bias": False,
        "qk_norm": False,
        "sliding_window": None,
        "full_attention_layers": (),
        "unrotated_layers": (),
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    }
    """What transformers assumes where config.json is silent; None follows from the other sizes."""

    embedding = WeightRule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), _vocabulary, 0)
    final_norm = WeightRule("decoder.final_layernorm.weight", ("model.norm.weight",), _norm, None)
    output = WeightRule("output_layer.weight", ("lm_head.weight",), _vocabulary, 0)

    def read_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Sizes from config.json, with transformers' defaults where it is silent.

        Raises:
            CheckpointError: sizes missing or impossible, or a variant that cannot be trained here.
        """
        config = {**self.defaults, **config}
        self.check_variant(config)
        layers = size(config, "num_hidden_layers", MOST_LAYERS)
        hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
        groups = heads if config["num_key_value_heads"] is None else config["num_key_value_heads"]
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or heads % groups:
            raise unusable("num_key_value_heads", f"a divisor of num_attention_heads {heads}", groups)
        if config["head_dim"] is None and hidden % heads:
            raise unusable("hidden_size", f"a multiple of num_attention_heads {heads}", hidden)
        features = {**self.fixed, **self.read_windows(config)}
        return ModelShape(
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=size(config, "intermediate_size"),
            num_attention_heads=heads,
            num_query_groups=groups,
            head_dim=hidden // heads if config["head_dim"] is None else size(config, "head_dim"),
            vocab_size=size(config, "vocab_size"),
            norm_epsilon=epsilon(config, "rms_norm_eps"),
            tied_embeddings=flag(config, "tie_word_embeddings"),
            family=self.name,
            **features,
        )

    def check_variant(self, config: Mapping[str, Any]) -> None:
        """Refuses options of this family that cannot be trained here; `config` has its defaults filled in.

        Raises:
            CheckpointError: naming the entry.
        """
        for key in ("attention_bias", "mlp_bias"):
            # transformers checks the type of its class's own options only, and ignores all others.
            if flag(config, key) if key in self.defaults else config.get(key):
                fix = "start from a checkpoint without these biases"
                raise unusable(key, "false (biases are not supported)", config[key], fix)
        if config["hidden_act"] not in ("silu", "swish"):
            raise unusable("hidden_act", "silu", config["hidden_act"], "start from a checkpoint with SwiGLU")

    def read_windows(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """sliding_window and full_attention_layers of ModelShape, where they are not fixed.

        Llama has no sliding window whatever its config.json says; transformers ignores the key there.
        """
        return {}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {
            "attention_bias": False,
            "head_dim": shape.head_dim,
            "hidden_act": "silu",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.ffn_hidden_size,
            "mlp_bias": False,
            "num_attention_heads": shape.num_attention_heads,
            "num_hidden_layers": shape.num_layers,
            "num_key_value_heads": shape.num_query_groups,
            "rms_norm_eps": shape.norm_epsilon,
            "tie_word_embeddings": shape.tied_embeddings,
            "vocab_size": shape.vocab_size,
        }

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """How the checkpoint's positions are made; whole heads are rotated."""
        extension = super().read_extension(config, shape)
        if extension.rotary_percent != 1.0:
            # transformers' Llama and its kin ignore it or fail on it, according to the type of scaling.
            fix = "start from a checkpoint that rotates whole heads"
            raise unusable("partial_rotary_factor", "1.0 (whole heads)", extension.rotary_percent, fix)
        return extension

    def check_exportable(self, extension: ContextExtension) -> None:
        """Refuses rotary on a part of each head: transformers' class always rotates whole heads."""
        super().check_exportable(extension)
        if extension.rotary_percent != 1.0:
            raise CheckpointError(
                "model.rotary_percentage",
                required=f"1.0 ({self.architecture} in transformers rotates whole heads)",
                given=extension.rotary_percent,
                fix="keep the model as a distributed checkpoint, or train it with rotary_percentage 1.0",
            )

    def layer_rules(self, shape: ModelShape) -> tuple[WeightRule, ...]:
        """The table of one layer."""
        return (
            WeightRule(LAYER + "input_layernorm.weight", (HF_LAYER + "input_layernorm.weight",), _norm, None),
            WeightRule(
                LAYER + "self_attention.linear_qkv.weight",
                tuple(f"{HF_LAYER}self_attn.{part}_proj.weight" for part in "qkv"),
                lambda shape: tuple((rows, shape.hidden_size) for rows in qkv_rows(shape)),
                split_dim=0,
                by_group=True,
                rotated=(0, 1),
            ),
            WeightRule(
                LAYER + "self_attention.linear_proj.weight",
                (HF_LAYER + "self_attn.o_proj.weight",),
                lambda shape: ((shape.hidden_size, shape.num_attention_heads * shape.head_dim),),
                split_dim=1,
            ),
            WeightRule(
                LAYER + "pre_mlp_layernorm.weight",
                (HF_LAYER + "post_attention_layernorm.weight",),
                _norm,
                split_dim=None,
            ),
            WeightRule(
                LAYER + "mlp.linear_fc1.weight",
                (HF_LAYER + "mlp.gate_proj.weight", HF_LAYER + "mlp.up_proj.weight"),
                lambda shape: ((shape.ffn_hidden_size, shape.hidden_size),) * 2,
                split_dim=0,
            ),
            WeightRule(
                LAYER + "mlp.linear_fc2.weight",
                (HF_LAYER + "mlp.down_proj.weight",),
                lambda shape: ((shape.hidden_size, shape.ffn_hidden_size),),
                split_dim=1,
            ),
        )

    def megatron_options(self, shape: ModelShape) -> dict[str, Any]:
        """Arguments of Megatron's TransformerConfig: the sizes, RMSNorm and SwiGLU without biases."""
        return {
            **super().megatron_options(shape),
            "normalization": "RMSNorm",
            "gated_linear_unit": True,
            "activation_func": silu,
            "add_bias_linear": False,
        }

    def kept_channels(self, shape: ModelShape) -> KeptChannels:
        """Per norm its input and its output; rotated query and key, value, and attention's output; gate and
        up, and their product."""
        query, key, value = qkv_rows(shape)
        return KeptChannels(
            residual=2 * 2 * shape.hidden_size,
            attention=query + key + value + query,
            mlp=3 * shape.ffn_hidden_size,
        )
