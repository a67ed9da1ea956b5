"""Hugging Face weights into this rank's Megatron model, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_pi.checkpoint.hf.blocks import blocks
from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights, StoredWeights
from nemo_pi.errors import CheckpointError
from nemo_pi.families.base import Family
from nemo_pi.families.fusion import fuse, reorder_heads, trained_order
from nemo_pi.families.lora import ADAPTER
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import WeightRule, split_name
from nemo_pi.rope.spec import ContextExtension

# Of two vocabulary matrices that are compared at a time, so that neither is read whole.
_ROWS_AT_ONCE, _NUMBERS_AT_ONCE = 4096, 1 << 24

Located = tuple[Tensor, WeightRule, int | None]


def load_huggingface(
    model_chunks: Sequence[nn.Module],
    folder: str | Path,
    shape: ModelShape,
    *,
    tp_rank: int = 0,
    tp_size: int = 1,
    extension: ContextExtension | None = None,
) -> None:
    """Fills this rank's model chunks from a Hugging Face folder, in place.

    Each rank reads only the slices it keeps, a block of rows at a time; nothing is communicated. Values are
    converted to the parameters' dtype (fp16 and bf16 into fp32 without loss); padding of a vocabulary is 0.

    Args:
        model_chunks: this rank's GPTModel chunks (several under interleaved pipelining), wrapped or not.
        folder: config.json and safetensors.
        shape: sizes of the whole model.
        tp_rank, tp_size: this rank's place in the tensor-parallel group.
        extension: the model's; only its channel order matters (where the family stores another one, the rows
            of q and k are reordered). None means the family's.

    Raises:
        CheckpointError: the folder does not hold exactly this model, a parameter has no counterpart, or
            weights that are no numbers.
    """
    weights = HuggingFaceWeights(Path(folder))
    check_weights(weights, shape)
    if shape.num_query_groups % tp_size:
        raise CheckpointError(
            "model.tensor_model_parallel_size",
            required=f"a divisor of the {shape.num_query_groups} key/value heads",
            given=tp_size,
            fix="choose a smaller one",
        )
    order = None if extension is None else trained_order(extension, family_of(shape).interleaved)
    with torch.no_grad():
        for target, rule, layer in located_parameters(model_chunks, shape):
            _check_size(target, rule, layer, shape, tp_size)
            _fill(target, weights, rule, layer, shape, tp_rank, tp_size, order)


def _fill(
    target: Tensor,
    weights: HuggingFaceWeights,
    rule: WeightRule,
    layer: int | None,
    shape: ModelShape,
    rank: int,
    size: int,
    order: Tensor | None,
) -> None:
    names, columns = rule.names(layer), 1 if rule.split_dim == 1 else None
    filled = wrong = 0
    for block in blocks(rule, shape, rank, size):
        parts = [weights.read(names[number], columns, rank, size, rows=rows) for number, rows in block.parts]
        wrong += sum(map(_num_not_finite, parts))
        first, filled = block.rows
        target[first:filled].copy_(fuse(reorder_heads(parts, rule, shape, order), rule, shape))
    target[filled:] = 0  # padding of a vocabulary, if anything
    if wrong:
        raise CheckpointError(
            f"{weights.folder}: {', '.join(names)}",
            required="finite weights",
            given=f"{wrong} that are infinite or no numbers",
            fix="download or copy the checkpoint again, or take an earlier one: this one cannot be trained",
        )


def _num_not_finite(part: Tensor) -> int:
    # One pass that writes nothing; NaN is both the least and the largest where there is one.
    if torch.stack(torch.aminmax(part)).isfinite().all():
        return 0
    return int((~torch.isfinite(part)).sum())


def _check_size(target: Tensor, rule: WeightRule, layer: int | None, shape: ModelShape, size: int) -> None:
    sizes = rule.sizes(shape)
    rows, columns = sum(part[0] for part in sizes), list(sizes[0][1:])
    if rule.is_vocabulary:
        rows = shape.vocab_rows(size)
    elif rule.split_dim == 0:
        rows //= size
    elif rule.split_dim == 1:
        columns[0] //= size
    if list(target.shape) != [rows, *columns]:
        raise CheckpointError(
            rule.megatron.format(n=layer),
            required=f"shape {list(target.shape)} (this rank's part of the model)",
            given=f"shape {[rows, *columns]}",
            fix="build the model from the checkpoint's own sizes",
        )


def read_parts(
    weights: HuggingFaceWeights, rule: WeightRule, layer: int | None, shape: ModelShape, rank: int, size: int
) -> list[Tensor]:
    """This rank's slice of every part of a parameter."""
    parts = zip(rule.names(layer), rule.first_rows(shape), rule.sizes(shape), strict=True)
    return [
        weights.read(name, rule.split_dim, rank, size, rows=(first, first + sizes[0]))
        for name, first, sizes in parts
    ]


def check_weights(weights: StoredWeights, shape: ModelShape) -> None:
    """Compares a folder's tensors with a shape: names, shapes, and a tied output layer's values.

    Raises:
        CheckpointError: naming the tensor.
    """
    family = family_of(shape)
    if shape.num_layers > len(weights.sizes):  # before every tensor of every layer is named
        raise CheckpointError(
            "config.json: num_hidden_layers",
            required=f"no more layers than tensors, of which {weights.folder} holds {len(weights.sizes):,}",
            given=f"{shape.num_layers:,}",
            fix="check that config.json and the safetensors come from the same model",
        )
    (head,), (embedding,) = family.output.names(None), family.embedding.names(None)
    if shape.tied_embeddings:
        name_tied_matrix(weights, family)
    weights.check(family.tensors(shape), also_allowed=frozenset({head} if shape.tied_embeddings else ()))
    # Some folders store the tied matrix under both names.
    if head in weights.sizes and shape.tied_embeddings:
        _check_tied(weights, head, embedding)


def name_tied_matrix(weights: StoredWeights, family: Family) -> None:
    """Offers a tied model's one vocabulary matrix as the embedding where it is stored as the output layer.

    safetensors' own save_model keeps one name of a shared tensor, and of a Llama that is lm_head.weight.
    """
    (head,), (embedding,) = family.output.names(None), family.embedding.names(None)
    if head in weights.sizes and embedding not in weights.sizes:
        weights.rename(head, embedding)


def _check_tied(weights: StoredWeights, head: str, embedding: str) -> None:
    if weights.sizes[head] == weights.sizes[embedding]:
        rows, *others = weights.sizes[head]
        at_once = max(1, min(_ROWS_AT_ONCE, _NUMBERS_AT_ONCE // max(1, prod(others))))
        same = all(
            torch.equal(*(weights.rows(name, start, at_once) for name in (head, embedding)))
            for start in range(0, rows, at_once)
        )
        if same and weights.dtypes[head] == weights.dtypes[embedding]:
            return
    raise CheckpointError(
        head,
        required=f"absent, or equal to {embedding} (config.json: tie_word_embeddings is true)",
        given="another matrix",
        fix=f"set tie_word_embeddings to false in config.json, or remove {head}",
    )


def located_parameters(model_chunks: Sequence[nn.Module], shape: ModelShape) -> Iterator[Located]:
    """(parameter, rule, global layer number) of everything this rank holds, adapters aside.

    Raises:
        CheckpointError: a parameter that no rule covers.
    """
    rules = {rule.megatron: rule for rule in family_of(shape).rules(shape)}
    for chunk in model_chunks:
        numbers = global_layers(chunk)
        for name, parameter in chunk.named_parameters():
            if f".{ADAPTER}" in name:
                continue
            table_name, local = split_name(name)
            if table_name not in rules:
                raise CheckpointError(
                    name,
                    required=f"a parameter of a {shape.family} model",
                    given="one that has no Hugging Face counterpart",
                    fix="build the model from its shape, without biases and heads that the shape has not",
                )
            yield parameter.data, rules[table_name], None if local is None else numbers[local]


def global_layers(chunk: nn.Module) -> list[int]:
    """0-based global numbers of a chunk's layers, in their local order."""
    inner: Any = chunk
    while hasattr(inner, "module"):
        inner = inner.module
    return [layer.layer_number - 1 for layer in inner.decoder.layers]
