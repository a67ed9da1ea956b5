"""The table of a layer's weights, from the names that a family's tensors have.

Shape legend: H hidden size, N query heads, G key/value groups, D head dim, F feed-forward size.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_pi.families.kind import LAYER_NORM, LayerKind
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import LAYER, Sizes, WeightRule


@dataclass(frozen=True)
class LayerNames:
    """Hugging Face's names of a layer's modules. Their tensors end with .weight and .bias."""

    layer: str = "model.layers.{n}."
    """How all of them begin, with `{n}` for the number of the layer."""
    input_norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """Query, key and value; a single one stores them as Megatron does, group by group."""
    query_key_norms: tuple[str, str] = ("self_attn.q_norm", "self_attn.k_norm")
    proj: str = "self_attn.o_proj"
    mlp_norm: str = "post_attention_layernorm"
    norms_after: tuple[str, str] = ("post_attention_layernorm", "post_feedforward_layernorm")
    """Of what attention and MLP return, where the kind of layers has them."""
    fc1: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    """Gate and up, or what an MLP without gate has. A name several times, here or in `qkv`, is one
    tensor with the parts on top of each other."""
    fc2: str = "mlp.down_proj"


def qkv_rows(shape: ModelShape) -> tuple[int, int, int]:
    """Rows of the query, key and value projections: N·D, G·D, G·D."""
    key = shape.num_query_groups * shape.head_dim
    return shape.num_attention_heads * shape.head_dim, key, key


def _head_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    return ((shape.head_dim,),)


def _query_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    return ((qkv_rows(shape)[0],),)


def _key_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    return ((qkv_rows(shape)[1],),)


def hidden_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    """Of a norm's weight or bias: [H]."""
    return ((shape.hidden_size,),)


def vocabulary_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    """Of the embedding and the output layer: [vocabulary, H]."""
    return ((shape.vocab_size, shape.hidden_size),)


def vocabulary_bias_sizes(shape: ModelShape) -> tuple[Sizes, ...]:
    """Of the output layer's bias."""
    return ((shape.vocab_size,),)


def layer_table(names: LayerNames, kind: LayerKind) -> tuple[WeightRule, ...]:
    """The rows of one layer: matrices and the norms before them, then biases, norms of heads, and norms
    behind."""
    return (
        *((_norm("input_layernorm", names, names.input_norm),) if kind.norms_before else ()),
        _qkv(names, "weight"),
        _linear("self_attention.linear_proj", names, names.proj, "weight"),
        *((_norm("pre_mlp_layernorm", names, names.mlp_norm),) if _has_mlp_norm(kind) else ()),
        _fc1(names, "weight"),
        _linear("mlp.linear_fc2", names, names.fc2, "weight"),
        *_biases(names, kind),
        *(_head_norms(names, kind) if kind.qk_norm else ()),
        *(_norms_after(names) if kind.norms_after else ()),
    )


def _has_mlp_norm(kind: LayerKind) -> bool:
    return kind.norms_before and not kind.shared_norm


def _norms_after(names: LayerNames) -> tuple[WeightRule, WeightRule]:
    attention, mlp = names.norms_after
    return _norm("self_attn_bda.norm", names, attention), _norm("mlp_bda.norm", names, mlp)


def _head_norms(names: LayerNames, kind: LayerKind) -> tuple[WeightRule, ...]:
    """Norms of query and key, whose channels follow the order of the heads they scale: [D] for each head, or
    [N·D] and [G·D] over all, of which a tensor-parallel rank holds those of its own heads."""
    each = (_head_sizes,) * 2
    return tuple(
        WeightRule(
            f"{LAYER}self_attention.{part}_layernorm.{end}",
            (f"{names.layer}{name}.{end}",),
            sizes,
            split_dim=0 if kind.qk_norm_whole else None,
            rotated=(0,),
        )
        for part, name, sizes in zip(
            "qk",
            names.query_key_norms,
            (_query_sizes, _key_sizes) if kind.qk_norm_whole else each,
            strict=True,
        )
        for end in ("weight", "bias")[: 2 if kind.norm == LAYER_NORM else 1]
    )


def _biases(names: LayerNames, kind: LayerKind) -> tuple[WeightRule, ...]:
    rows: list[WeightRule] = []
    if kind.norm == LAYER_NORM:
        assert kind.norms_before and not kind.norms_after, "no family has such layers"
        rows.append(_norm("input_layernorm", names, names.input_norm, "bias"))
        if not kind.shared_norm:
            rows.append(_norm("pre_mlp_layernorm", names, names.mlp_norm, "bias"))
    if kind.qkv_bias:
        rows.append(_qkv(names, "bias"))
    if kind.proj_bias:
        rows.append(_linear("self_attention.linear_proj", names, names.proj, "bias"))
    if kind.mlp_bias:
        rows += [_fc1(names, "bias"), _linear("mlp.linear_fc2", names, names.fc2, "bias")]
    return tuple(rows)


def _norm(megatron: str, names: LayerNames, name: str, end: str = "weight") -> WeightRule:
    return WeightRule(f"{LAYER}{megatron}.{end}", (f"{names.layer}{name}.{end}",), hidden_sizes, None)


def _qkv(names: LayerNames, end: str) -> WeightRule:
    def sizes(shape: ModelShape) -> tuple[Sizes, ...]:
        rows = qkv_rows(shape)
        parts = rows if len(names.qkv) == 3 else (sum(rows),)
        return tuple((part, shape.hidden_size)[: 1 if end == "bias" else 2] for part in parts)

    return WeightRule(
        f"{LAYER}self_attention.linear_qkv.{end}",
        tuple(f"{names.layer}{name}.{end}" for name in names.qkv),
        sizes,
        split_dim=0,
        by_group=True,
        rotated=(0, 1)[: len(names.qkv)],
    )


def _fc1(names: LayerNames, end: str) -> WeightRule:
    def sizes(shape: ModelShape) -> tuple[Sizes, ...]:
        part = (shape.ffn_hidden_size, shape.hidden_size)[: 1 if end == "bias" else 2]
        return (part,) * len(names.fc1)

    names_of = tuple(f"{names.layer}{name}.{end}" for name in names.fc1)
    return WeightRule(f"{LAYER}mlp.linear_fc1.{end}", names_of, sizes, split_dim=0)


def _linear(megatron: str, names: LayerNames, name: str, end: str) -> WeightRule:
    """A projection back to the residual, whose bias every rank has whole."""

    def sizes(shape: ModelShape) -> tuple[Sizes, ...]:
        if end == "bias":
            return ((shape.hidden_size,),)
        heads = shape.num_attention_heads * shape.head_dim
        return ((shape.hidden_size, heads if "self_attention" in megatron else shape.ffn_hidden_size),)

    split = None if end == "bias" else 1
    return WeightRule(f"{LAYER}{megatron}.{end}", (f"{names.layer}{name}.{end}",), sizes, split)
