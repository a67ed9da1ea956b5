"""What a model family is: everything that the rest of the library asks about one.

A family reads and writes its config.json, says which Hugging Face tensors Megatron's parameters are made of,
what Megatron's layers need, and what a layer keeps for its backward pass. A new family is one file with a
subclass, and one line in nemo_pi.families.registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.families.kind import MEGATRON_FUNCTIONS, LayerKind
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.table import qkv_rows
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
    also_called: ClassVar[tuple[str, ...]] = ()
    """Other names of that class in published files."""
    remote_code: ClassVar[bool] = False
    """Whether transformers has no such class: the model's own code would have to be run, which never happens
    here."""
    fixed: ClassVar[Mapping[str, Any]]
    """Fields of ModelShape that every model of this family has alike, beyond sizes."""
    usual: ClassVar[Mapping[str, Any]] = {}
    """Fields of ModelShape that its models may or may not share, as a YAML without a checkpoint gets them."""
    by_features: ClassVar[bool] = True
    """Whether a YAML without a checkpoint gets this family by its features; others have to be named."""
    interleaved: ClassVar[bool] = False
    """Whether its class in transformers rotates neighbouring channels of a head rather than halves."""
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
    last_biases: ClassVar[tuple[WeightRule, ...]] = ()
    """Biases of the final norm and of the output layer; there is one even where that is the embedding."""
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
    window_key: ClassVar[str] = "max_position_embeddings"
    """The one of them that says how many tokens the model reads."""
    rope_defaults: ClassVar[Mapping[str, Any]] = {}
    """Such keys as transformers fills them in where config.json is silent, unless by its usual values."""

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
        given = {key: value for key, value in config.items() if value is not None}
        config = {**self.rope_defaults, **given}
        sets = self.rotary_sets(config, shape)
        extension = from_hf(config, shape.head_dim, sets, scales_queries=self.scales_queries)
        return replace(extension, interleaved=self.interleaved)

    def rotary_sets(
        self, config: Mapping[str, Any], shape: ModelShape
    ) -> Mapping[str, Mapping[str, Any]] | None:
        """Rotary entries by kind of layer, as from_hf takes them; None: all layers share theirs."""
        return None

    def extension_entries(self, extension: ContextExtension) -> dict[str, Any]:
        """The inverse, in the spelling that readers of transformers 4.45 to 5 share."""
        entries = config_entries(extension)
        if "partial_rotary_factor" in self.rope_defaults:
            entries.setdefault("partial_rotary_factor", extension.rotary_percent)
        return entries

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

    def check_export_of(self, shape: ModelShape, extension: ContextExtension) -> None:
        """As check_exportable, and refuses sizes with which that class cannot compute these positions.

        Raises:
            CheckpointError, ConfigError: as check_exportable.
        """
        self.check_exportable(extension)

    def same_function(self, shape: ModelShape) -> tuple[ModelShape, ...]:
        """The model as other families have it, whose classes compute just the same from the same parameters.

        The best first; biases that only the other family has are zeros. An export is written as one of these
        where this family's class cannot say how positions are made, or is asked to.
        """
        return ()

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
        return (self.embedding, *self.layer_rules(shape), self.final_norm, output, *self.last_biases)

    def export_order(self, shape: ModelShape) -> list[tuple[WeightRule, int | None]]:
        """(row, layer) of every parameter that a Hugging Face folder holds, layer by layer."""
        rules = self.layer_rules(shape)
        layers = [(rule, layer) for layer in range(shape.num_layers) for rule in rules]
        last = [self.final_norm, *([] if shape.tied_embeddings else [self.output]), *self.last_biases]
        return [(self.embedding, None), *layers, *((rule, None) for rule in last)]

    def tensors(self, shape: ModelShape) -> dict[str, Sizes]:
        """Every tensor a Hugging Face folder of this shape holds, in export order, with its whole shape."""
        found: dict[str, Sizes] = {}
        for rule, layer in self.export_order(shape):
            found.update(rule.tensors(shape, layer))
        return found

    # --- Megatron and the plan ---

    def layer_kind(self, shape: ModelShape) -> LayerKind:
        """What layers are made of: what the shape says; subclasses add what all their models have alike."""
        return LayerKind(
            activation=shape.activation,
            parallel=shape.parallel_residual,
            qk_norm=shape.qk_norm,
            qkv_bias=shape.qkv_bias,
            proj_bias=shape.proj_bias,
            mlp_bias=shape.mlp_bias,
            embedding_scale=shape.embedding_multiplier,
            residual_scale=shape.residual_multiplier,
            logits_divisor=shape.logits_scaling,
        )

    def megatron_options(self, shape: ModelShape) -> dict[str, Any]:
        """Arguments of Megatron's TransformerConfig that follow from the sizes and the kind of layers."""
        kind, window = self.layer_kind(shape), shape.sliding_window
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
            "normalization": kind.norm,
            "layernorm_zero_centered_gamma": kind.zero_centered,
            "gated_linear_unit": kind.gated,
            "activation_func": MEGATRON_FUNCTIONS[kind.activation],
            "add_qkv_bias": kind.qkv_bias,
            # Of the MLP; attention gets a copy with the bias of its own output (model/attention.py).
            "add_bias_linear": kind.mlp_bias,
            # Norms over all heads would be replicas to Megatron, whose gradients it adds up over the ranks.
            "qk_layernorm": kind.qk_norm and not kind.qk_norm_whole,
            "softmax_scale": shape.attention_multiplier,
            "window_size": None if window is None else (window - 1, 0),
            "window_attn_skip_freq": layers if shape.full_attention_layers else None,
        }

    def kept_channels(self, shape: ModelShape) -> KeptChannels:
        """What autograd keeps of one layer for one token, nothing recomputed; fp32 statistics aside.

        The input and the output of each norm before, but one input where both read the same (without such
        norms the projections' input), and the input of each norm behind; rotated query and key, value, and
        attention's output; the MLP's projections and what becomes of them. Norms of query and key keep their
        inputs, too: the fused projection's output stays, and with fewer key than query heads so does the copy
        that brings the query's heads onto one axis. Norms over all heads copy query and key in any case.
        """
        kind, (query, key, value) = self.layer_kind(shape), qkv_rows(shape)
        attention = query + key + value + query
        if kind.qk_norm:
            grouped = shape.num_query_groups < shape.num_attention_heads
            copied = query + key if kind.qk_norm_whole else query if grouped else 0
            attention += query + key + copied
        outputs = (1 if kind.shared_norm else 2) if kind.norms_before else 0
        behind = 2 if kind.norms_after else 0
        return KeptChannels(
            residual=(outputs + (1 if kind.parallel else 2) + behind) * shape.hidden_size,
            attention=attention,
            mlp=(3 if kind.gated else 2) * shape.ffn_hidden_size,
        )

    def layer_parameters(self, shape: ModelShape, tp: int = 1) -> int:
        """Parameters of one layer on one of `tp` tensor-parallel ranks."""
        return sum(rule.num_parameters(shape, tp) for rule in self.layer_rules(shape))

    def layer_products(self, shape: ModelShape) -> int:
        """Multiplications of one token with one layer's matrices (norms and biases multiply none)."""
        matrices = [rule for rule in self.layer_rules(shape) if len(rule.sizes(shape)[0]) == 2]
        return sum(rule.num_parameters(shape) for rule in matrices)

    def num_parameters(self, shape: ModelShape) -> int:
        """Parameters of the whole model; a tied output layer counts once."""
        # One layer counted and multiplied: how many a stranger's file claims may be a great many.
        once = replace(shape, num_layers=1, full_attention_layers=())
        counted = sum(rule.num_parameters(once) for rule, _ in self.export_order(once))
        return counted + (shape.num_layers - 1) * self.layer_parameters(shape)
