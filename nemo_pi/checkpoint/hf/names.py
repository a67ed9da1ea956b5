"""Which Hugging Face tensors each Megatron parameter is made of, per family.

Every Megatron parameter here is one fusion of Hugging Face tensors, each of which tensor parallelism
splits evenly along one dimension (or not at all). So a rank slices first and fuses afterwards, and an
export unfuses first and concatenates afterwards.

Shape legend: H hidden size, N query heads, G key/value groups, D head dim, F feed-forward size, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_pi.arch.shape import ModelShape

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class WeightRule:
    """One row of a family's table."""

    megatron: str
    """Megatron's parameter name, with `{n}` for the global layer number."""
    huggingface: tuple[str, ...]
    """The Hugging Face tensors it holds, in the order they are fused."""
    sizes: Callable[[ModelShape], tuple[Sizes, ...]]
    """Whole shapes of those tensors."""
    split_dim: int | None
    """Dimension of each Hugging Face tensor that tensor parallelism splits; None for a replica."""
    by_group: bool = False
    """Whether rows are interleaved by key/value group (Megatron's fused qkv) instead of stacked."""

    def names(self, layer: int | None) -> tuple[str, ...]:
        """The Hugging Face names in layer `layer` (0-based; None outside the layers)."""
        return tuple(name.format(n=layer) for name in self.huggingface)


def _qkv_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    query = (shape.num_attention_heads * shape.head_dim, shape.hidden_size)
    key = (shape.num_query_groups * shape.head_dim, shape.hidden_size)
    return query, key, key


def _norm_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    return ((shape.hidden_size,),)


def _vocabulary_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    return ((shape.vocab_size, shape.hidden_size),)


_LAYER = "decoder.layers.{n}."
_HF_LAYER = "model.layers.{n}."

EMBEDDING = WeightRule(
    "embedding.word_embeddings.weight", ("model.embed_tokens.weight",), _vocabulary_sizes, 0
)
FINAL_NORM = WeightRule("decoder.final_layernorm.weight", ("model.norm.weight",), _norm_sizes, None)
OUTPUT = WeightRule("output_layer.weight", ("lm_head.weight",), _vocabulary_sizes, 0)
# With tied embeddings the last pipeline stage keeps a copy of the embedding under the output layer's name.
TIED_OUTPUT = WeightRule("output_layer.weight", ("model.embed_tokens.weight",), _vocabulary_sizes, 0)

LAYER_RULES: tuple[WeightRule, ...] = (
    WeightRule(_LAYER + "input_layernorm.weight", (_HF_LAYER + "input_layernorm.weight",), _norm_sizes, None),
    WeightRule(
        _LAYER + "self_attention.linear_qkv.weight",
        tuple(f"{_HF_LAYER}self_attn.{part}_proj.weight" for part in "qkv"),
        _qkv_sizes,
        split_dim=0,
        by_group=True,
    ),
    WeightRule(
        _LAYER + "self_attention.linear_proj.weight",
        (_HF_LAYER + "self_attn.o_proj.weight",),
        lambda shape: ((shape.hidden_size, shape.num_attention_heads * shape.head_dim),),
        split_dim=1,
    ),
    WeightRule(
        _LAYER + "pre_mlp_layernorm.weight",
        (_HF_LAYER + "post_attention_layernorm.weight",),
        _norm_sizes,
        split_dim=None,
    ),
    WeightRule(
        _LAYER + "mlp.linear_fc1.weight",
        (_HF_LAYER + "mlp.gate_proj.weight", _HF_LAYER + "mlp.up_proj.weight"),
        lambda shape: ((shape.ffn_hidden_size, shape.hidden_size),) * 2,
        split_dim=0,
    ),
    WeightRule(
        _LAYER + "mlp.linear_fc2.weight",
        (_HF_LAYER + "mlp.down_proj.weight",),
        lambda shape: ((shape.hidden_size, shape.ffn_hidden_size),),
        split_dim=1,
    ),
)

# Transformer Engine fuses each norm into the linear layer behind it; the parameter is the same.
_ENGINE_NAMES = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}

_LAYER_PATTERN = re.compile(r"^decoder\.layers\.(\d+)\.(.+)$")


def split_name(megatron: str) -> tuple[str, int | None]:
    """A Megatron parameter name as (table name, layer number): `decoder.layers.3.x` gives
    (`decoder.layers.{n}.x`, 3). Wrappers' `module.` prefixes and Transformer Engine's norm names are
    brought back to the table's spelling."""
    while megatron.startswith("module."):
        megatron = megatron.removeprefix("module.")
    match = _LAYER_PATTERN.match(megatron)
    if match is None:
        return megatron, None
    inner = match.group(2)
    return _LAYER + _ENGINE_NAMES.get(inner, inner), int(match.group(1))


def rules_for(shape: ModelShape) -> tuple[WeightRule, ...]:
    """The table of a model, in Hugging Face's order: embedding, layer rules, final norm, output layer."""
    return (EMBEDDING, *LAYER_RULES, FINAL_NORM, TIED_OUTPUT if shape.tied_embeddings else OUTPUT)


def expected_tensors(shape: ModelShape) -> dict[str, Sizes]:
    """Every tensor a Hugging Face folder of this shape holds, in export order, with its whole shape."""
    expected: dict[str, Sizes] = {}
    for rule, layer in export_order(shape):
        expected.update(zip(rule.names(layer), rule.sizes(shape), strict=True))
    return expected


def export_order(shape: ModelShape) -> list[tuple[WeightRule, int | None]]:
    """(rule, layer) of every parameter that is written, layer by layer."""
    layers = [(rule, layer) for layer in range(shape.num_layers) for rule in LAYER_RULES]
    last = [] if shape.tied_embeddings else [(OUTPUT, None)]
    return [(EMBEDDING, None), *layers, (FINAL_NORM, None), *last]


def fuse(parts: Sequence[Tensor], rule: WeightRule, shape: ModelShape) -> Tensor:
    """One rank's Megatron parameter from its slices of the Hugging Face tensors.

    qkv: q [g·N/G·D, H], k and v [g·D, H] become [g·(N/G + 2)·D, H] with each group's query heads, key
    and value side by side (g groups on this rank).
    """
    if not rule.by_group:
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))
    hidden = parts[0].shape[-1]
    groups = parts[1].shape[0] // shape.head_dim
    return torch.cat([part.reshape(groups, -1, hidden) for part in parts], dim=1).reshape(-1, hidden)


def unfuse(weight: Tensor, rule: WeightRule, shape: ModelShape) -> tuple[Tensor, ...]:
    """The inverse of `fuse`: one rank's slices of the Hugging Face tensors."""
    if not rule.by_group:
        return weight.chunk(len(rule.huggingface)) if len(rule.huggingface) > 1 else (weight,)
    per_group = shape.num_attention_heads // shape.num_query_groups
    sections = [per_group * shape.head_dim, shape.head_dim, shape.head_dim]
    hidden = weight.shape[-1]
    grouped = weight.reshape(-1, sum(sections), hidden)
    return tuple(part.reshape(-1, hidden) for part in grouped.split(sections, dim=1))


def reorder_heads(
    parts: Sequence[Tensor], rule: WeightRule, shape: ModelShape, index: Tensor | None
) -> Sequence[Tensor]:
    """q and k slices with each head's channels in another order; every other parameter as it is.

    Args:
        parts: one rank's slices of the Hugging Face tensors of `rule`.
        index: int64 [head_dim], from nemo_pi.rope.layout; None leaves the order alone.
    """
    if index is None or not rule.by_group:
        return parts
    query, key, value = parts
    turned = [part.unflatten(0, (-1, shape.head_dim))[:, index].flatten(0, 1) for part in (query, key)]
    return [*turned, value]
