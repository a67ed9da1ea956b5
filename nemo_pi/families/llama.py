"""Llama 1 to 3.x and what shares its config.json: CodeLlama, Yi, Vicuna, …

RMSNorm, SwiGLU, grouped-query attention over whole rotated heads, no biases. Several other families are a
Llama with a difference: they subclass it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from nemo_pi.errors import CheckpointError
from nemo_pi.families.base import Family
from nemo_pi.families.entries import MOST_LAYERS, epsilon, flag, size, unusable
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import LayerNames, hidden_sizes, layer_table, vocabulary_sizes
from nemo_pi.families.weights import WeightRule
from nemo_pi.rope.spec import ContextExtension

GGUF_ARCHITECTURE = "llama"
"""llama.cpp's name of what computes as Llama does, Mistral among it."""
HF_LAYER = LayerNames.layer
"""How Hugging Face's names of a layer's tensors begin."""


PLAIN_LAYERS: Mapping[str, Any] = MappingProxyType(
    {
        "qkv_bias": False,
        "qk_norm": False,
        "proj_bias": False,
        "mlp_bias": False,
        "activation": "silu",
        "parallel_residual": False,
        "embedding_multiplier": 1.0,
        "attention_multiplier": None,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    }
)
"""What ModelShape says of layers like Llama's."""


class Llama(Family):
    """model_type llama."""

    name = "llama"
    architecture = "LlamaForCausalLM"
    fixed: ClassVar[Mapping[str, Any]] = {
        **PLAIN_LAYERS,
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
    epsilon_key: ClassVar[str] = "rms_norm_eps"
    """Entry of config.json with the norms' epsilon."""
    rotates_parts: ClassVar[bool] = False
    """Whether its class in transformers can rotate a part of each head."""
    layer_names: ClassVar[LayerNames] = LayerNames()
    """Of the tensors of a layer."""

    embedding = WeightRule(
        "embedding.word_embeddings.weight", ("model.embed_tokens.weight",), vocabulary_sizes, 0
    )
    final_norm = WeightRule("decoder.final_layernorm.weight", ("model.norm.weight",), hidden_sizes, None)
    output = WeightRule("output_layer.weight", ("lm_head.weight",), vocabulary_sizes, 0)

    def read_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Sizes from config.json, with transformers' defaults where it is silent.

        Raises:
            CheckpointError: sizes missing or impossible, or a variant that cannot be trained here.
        """
        config = {**self.defaults, **config}
        self.check_variant(config)
        layers = size(config, "num_hidden_layers", MOST_LAYERS)
        hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
        groups = config["num_key_value_heads"] if "num_key_value_heads" in self.defaults else None
        groups = heads if groups is None else groups
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or heads % groups:
            raise unusable("num_key_value_heads", f"a divisor of num_attention_heads {heads}", groups)
        head_dim = config["head_dim"] if "head_dim" in self.defaults else None
        if head_dim is None and hidden % heads:
            raise unusable("hidden_size", f"a multiple of num_attention_heads {heads}", hidden)
        features = {**self.fixed, **self.read_windows(config), **self.read_features(config)}
        return ModelShape(
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=size(config, "intermediate_size"),
            num_attention_heads=heads,
            num_query_groups=groups,
            head_dim=hidden // heads if head_dim is None else size(config, "head_dim"),
            vocab_size=size(config, "vocab_size"),
            norm_epsilon=epsilon(config, self.epsilon_key),
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

    def read_features(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Other fields of ModelShape that are not fixed; `config` has its defaults filled in."""
        return {}

    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """Entries of config.json that say what `shape` says."""
        return {
            **self.sizes(shape),
            "attention_bias": False,
            "head_dim": shape.head_dim,
            "hidden_act": "silu",
            "mlp_bias": False,
            "num_key_value_heads": shape.num_query_groups,
        }

    def sizes(self, shape: ModelShape) -> dict[str, Any]:
        """The entries among them that families like this one have alike."""
        return {
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.ffn_hidden_size,
            "num_attention_heads": shape.num_attention_heads,
            "num_hidden_layers": shape.num_layers,
            self.epsilon_key: shape.norm_epsilon,
            "tie_word_embeddings": shape.tied_embeddings,
            "vocab_size": shape.vocab_size,
        }

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """How the checkpoint's positions are made."""
        extension = super().read_extension(config, shape)
        if extension.rotary_percent != 1.0 and not self.rotates_parts:
            # transformers' Llama and its kin ignore it or fail on it, according to the type of scaling.
            fix = "start from a checkpoint that rotates whole heads"
            raise unusable("partial_rotary_factor", "1.0 (whole heads)", extension.rotary_percent, fix)
        return extension

    def check_exportable(self, extension: ContextExtension) -> None:
        """Refuses rotary on a part of each head where transformers' class always rotates whole heads."""
        super().check_exportable(extension)
        if extension.rotary_percent != 1.0 and not self.rotates_parts:
            raise CheckpointError(
                "model.rotary_percentage",
                required=f"1.0 ({self.architecture} in transformers rotates whole heads)",
                given=extension.rotary_percent,
                fix="keep the model as a distributed checkpoint, or train it with rotary_percentage 1.0",
            )

    def layer_rules(self, shape: ModelShape) -> tuple[WeightRule, ...]:
        """The table of one layer."""
        return layer_table(self.layer_names, self.layer_kind(shape))
