"""What a model family is: everything that the rest of the library asks about one.

A family reads and writes its config.json, says which Hugging Face tensors Megatron's parameters are made of,
what Megatron's layers need, and what a layer keeps for its backward pass. A new family is one file with a
subclass, and one line in nemo_pi.families.registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import Sizes, WeightRule
from nemo_pi.rope.fields import YAML_KEYS
from nemo_pi.rope.hf import RECORD, config_entries, from_hf, to_hf
from nemo_pi.rope.spec import ContextExtension


@dataclass(frozen=True)
class KeptChannels:
    """Channels per token that autograd keeps of one layer, in the dtype it computes in."""

    residual: int
    """Of the residual stream's width; sequence parallelism splits them."""
    attention: int
    """Of heads; tensor parallelism splits them."""
    mlp: int
    """Of the MLP's hidden layer; tensor parallelism splits them."""


class Family(ABC):
    """One model family. Instances hold no state; nothing outside nemo_pi.families asks for a name."""

    name: ClassVar[str]
    """Hugging Face's model_type."""
    architecture: ClassVar[str]
    """transformers' class of its language model."""
    fixed: ClassVar[Mapping[str, Any]]
    """Fields of ModelShape that every model of this family has alike, beyond sizes."""
    embedding: ClassVar[WeightRule]
    """The token embedding."""
    final_norm: ClassVar[WeightRule]
    """The norm behind the last layer."""
    output: ClassVar[WeightRule]
    """The output layer, where it is not the embedding."""
    rotary_by_kind: ClassVar[bool] = False
    """Whether layers with a sliding window have rotary embeddings of their own in transformers' class."""
    scales_queries: ClassVar[bool] = False
    """Whether queries grow with their position (llama_4_scaling_beta) in that class."""
    default_theta: ClassVar[float] = 10000.0
    """RoPE's base where config.json is silent."""
    rope_keys: ClassVar[tuple[str, ...]] = (
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "max_position_embeddings",
        "original_max_position_embeddings",
        RECORD,
    )
    """Keys of config.json that say how positions are made: another extension replaces them all."""

    # --- config.json ---

    @abstractmethod
    def read_shape(self, config: Mapping[str, Any]) -> ModelShape:
        """Sizes from config.json, with transformers' defaults where it is silent.

        Raises:
            CheckpointError: sizes missing or impossible, or a variant that cannot be trained here.
        """

    @abstractmethod
    def shape_entries(self, shape: ModelShape) -> dict[str, Any]:
        """The inverse: entries of config.json that say what `shape` says."""

    def read_extension(self, config: Mapping[str, Any], shape: ModelShape) -> ContextExtension:
        """How the checkpoint's positions are made.

        Raises:
            CheckpointError: rotary values that are missing or contradict each other, or that this family's
                class in transformers does not compute with.
        """
        if config.get("rope_theta") is None:
            config = {**config, "rope_theta": self.default_theta}
        return from_hf(config, shape.head_dim, scales_queries=self.scales_queries)

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """The inverse, in the spelling that readers of transformers 4.45 to 5 share."""
        return config_entries(extension)

    def check_exportable(self, extension: ContextExtension) -> None:
        """Refuses positions that this family's class in transformers cannot compute.

        Raises:
            CheckpointError: naming the key of the YAML.
            ConfigError: a scaling method that Hugging Face has no words for.
        """
        try:
            to_hf(extension)
        except ConfigError as error:
            raise error.respelled(YAML_KEYS) from error
        for field, known in (("sliding", self.rotary_by_kind), ("query_scale", self.scales_queries)):
            if getattr(extension, field) is not None and not known:
                raise CheckpointError(
                    YAML_KEYS[field],
                    required=f"null ({self.architecture} in transformers knows no such thing)",
                    given=getattr(extension, field).to_dict(),
                    fix="keep the model as a distributed checkpoint",
                )

    # --- weights ---

    @abstractmethod
    def layer_rules(self, shape: ModelShape) -> tuple[WeightRule, ...]:
        """The table of one layer, in Hugging Face's order."""

    def rules(self, shape: ModelShape) -> tuple[WeightRule, ...]:
        """The table of a model: every parameter that Megatron can hold of it."""
        output = self.output
        if shape.tied_embeddings:
            # The last pipeline stage keeps a copy of the embedding under the output layer's name.
            output = WeightRule(
                output.megatron, self.embedding.huggingface, self.embedding.sizes, self.embedding.split_dim
            )
        return (self.embedding, *self.layer_rules(shape), self.final_norm, output)

    def export_order(self, shape: ModelShape) -> list[tuple[WeightRule, int | None]]:
        """(row, layer) of every parameter that a Hugging Face folder holds, layer by layer."""
        rules = self.layer_rules(shape)
        layers = [(rule, layer) for layer in range(shape.num_layers) for rule in rules]
        last = [] if shape.tied_embeddings else [(self.output, None)]
        return [(self.embedding, None), *layers, (self.final_norm, None), *last]

    def tensors(self, shape: ModelShape) -> dict[str, Sizes]:
        """Every tensor a Hugging Face folder of this shape holds, in export order, with its whole shape."""
        found: dict[str, Sizes] = {}
        for rule, layer in self.export_order(shape):
            found.update(rule.tensors(shape, layer))
        return found

    # --- Megatron and the plan ---

    def megatron_options(self, shape: ModelShape) -> dict[str, Any]:
        """Arguments of Megatron's TransformerConfig: the sizes; subclasses add the kinds of layers."""
        window = shape.sliding_window
        # Megatron counts a window beside the query's own token, and marks layers that have one with 1.
        layers = [int(layer not in shape.full_attention_layers) for layer in range(shape.num_layers)]
        return {
            "num_layers": shape.num_layers,
            "hidden_size": shape.hidden_size,
            "ffn_hidden_size": shape.ffn_hidden_size,
            "num_attention_heads": shape.num_attention_heads,
            "num_query_groups": shape.num_query_groups,
            "kv_channels": shape.head_dim,
            "layernorm_epsilon": shape.norm_epsilon,
            "add_qkv_bias": shape.qkv_bias,
            "qk_layernorm": shape.qk_norm,
            "window_size": None if window is None else (window - 1, 0),
            "window_attn_skip_freq": layers if shape.full_attention_layers else None,
        }

    @abstractmethod
    def kept_channels(self, shape: ModelShape) -> KeptChannels:
        """What autograd keeps of one layer for one token, nothing recomputed; fp32 statistics aside."""

    def layer_parameters(self, shape: ModelShape, tp: int = 1) -> int:
        """Parameters of one layer on one of `tp` tensor-parallel ranks."""
        return sum(rule.num_parameters(shape, tp) for rule in self.layer_rules(shape))

    def layer_products(self, shape: ModelShape) -> int:
        """Multiplications of one token with one layer's matrices (norms and biases multiply none)."""
        matrices = [rule for rule in self.layer_rules(shape) if len(rule.sizes(shape)[0]) == 2]
        return sum(rule.num_parameters(shape) for rule in matrices)

    def num_parameters(self, shape: ModelShape) -> int:
        """Parameters of the whole model; a tied output layer counts once."""
        return sum(rule.num_parameters(shape) for rule, _ in self.export_order(shape))
