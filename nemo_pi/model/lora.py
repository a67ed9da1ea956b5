"""Adapters beside Megatron's linear layers, under tensor and sequence parallelism.

What ranks send each other on account of an adapter is r channels wide: A's output, never its input. Beside a
column-parallel layer A is a replica and B is split by rows; beside a row-parallel one A is split by columns
and B is a replica. Megatron's mappings make each replica's gradient whole on every rank; where rows of the
sequence are split, a replica sees its own rows only, and is marked so that Megatron adds its gradients up, as
it does for norms.

Shape legend: S tokens (on this rank, under sequence parallelism), B rows, I and O channels in and out, r
adapter_dim, K matrices A of a fused layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import dropout, linear, one_hot

from nemo_pi.families.fusion import fuse
from nemo_pi.families.lora import AdapterRules, Lora, adapter_rules
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import split_name
from nemo_pi.model.parallel_linear import ColumnLinear, RowLinear


class LoraAdapter(nn.Module):
    """What is added to the output of one linear layer.

    Args:
        layer: whose output it is added to; gives sizes, dtype, device and ranks.
        rules: how both are stored.
        lora: rank, factor, dropout and first numbers.
        shape: of the model.
        place: names the layer among all of the model, for A's first numbers.
    """

    def __init__(
        self, layer: ColumnLinear | RowLinear, rules: AdapterRules, lora: Lora, shape: ModelShape, place: str
    ) -> None:
        super().__init__()
        self.rules, self.scale, self.dropout = rules, lora.scale, lora.dropout
        self.group = layer.tp_group
        self.sequence_parallel: bool = layer.sequence_parallel
        weight: Tensor = layer.weight
        rank, size = self.group.rank(), self.group.size()
        first = _first_a(lora, rules, shape, place)
        if not rules.splits_rows:
            first = first.chunk(size, dim=1)[rank]
        self.lora_A = Parameter(first.to(weight))
        self.lora_B = Parameter(weight.new_zeros(weight.size(0), lora.dim))
        split, replica = (self.lora_B, self.lora_A) if rules.splits_rows else (self.lora_A, self.lora_B)
        set_tensor_model_parallel_attributes(split, True, 0 if rules.splits_rows else 1, 1)
        replica.sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]
        for parameter in (split, replica):
            parameter.allreduce = True  # type: ignore[attr-defined]
        self.reads: Tensor | None
        self.register_buffer("reads", _reads(rules, shape, size, weight), persistent=False)

    def forward(self, x_SBI: Tensor) -> Tensor:
        """What the layer's output gets beside its own [S, B, O]."""
        if self.dropout and self.training:
            x_SBI = dropout(x_SBI, self.dropout)
        h_SBr = linear(x_SBI, self.lora_A)
        if self.rules.splits_rows:
            if self.sequence_parallel:
                h_SBr = gather_from_sequence_parallel_region(h_SBr, group=self.group)
            else:
                h_SBr = copy_to_tensor_model_parallel_region(h_SBr, group=self.group)
        elif self.sequence_parallel:
            h_SBr = reduce_scatter_to_sequence_parallel_region(h_SBr, group=self.group)
        else:
            h_SBr = reduce_from_tensor_model_parallel_region(h_SBr, group=self.group)
        return linear(h_SBr * self.scale, self._wide_b())

    def _wide_b(self) -> Tensor:
        """B [O, K·r], in which each row reads its own matrix A only."""
        if self.reads is None:
            return self.lora_B
        return (self.lora_B[:, None, :] * self.reads[:, :, None]).flatten(1)

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Tensor:
        """A weight [O, I] that computes what the layer and this adapter do together, rounded once."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        added = self._wide_b().to(wide) @ self.lora_A.to(wide)
        return (weight.to(wide) + added * self.scale).to(weight.dtype)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Both matrices, as ranks of any layout can read them."""
        axes = {"lora_B": 0} if self.rules.splits_rows else {"lora_A": 1}
        matrices = {"lora_A": self.lora_A, "lora_B": self.lora_B}
        made: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            matrices, prefix, axes, sharded_offsets, tp_group=self.group, dp_cp_group=metadata["dp_cp_group"]
        )
        if self.rules.stacked:
            # As Megatron's MLP does for the weight: a rank's rows are its parts of gate and of up.
            made[f"{prefix}lora_B"] = apply_swiglu_sharded_factory(made[f"{prefix}lora_B"], sharded_offsets)
        return made


def _first_a(lora: Lora, rules: AdapterRules, shape: ModelShape, place: str) -> Tensor:
    """A [K·r, I] as a run begins: of the whole layer, so that every layout begins with the same numbers."""
    digest = hashlib.sha256(f"{lora.seed} {place}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    (rows, columns), *_ = rules.a.sizes(shape)
    a_KrI = torch.empty(rules.num_sources * rows, columns)
    if lora.init == "kaiming":
        bound = columns**-0.5  # kaiming_uniform_ with a = √5
        return a_KrI.uniform_(-bound, bound, generator=generator)
    std = (2.0 / (rows + columns)) ** 0.5 if lora.init == "xavier" else 0.2
    return a_KrI.normal_(std=std, generator=generator)


def _reads(rules: AdapterRules, shape: ModelShape, ranks: int, like: Tensor) -> Tensor | None:
    """1 where a row of this rank reads a matrix A [O, K], else 0; None where there is one for all."""
    if rules.num_sources == 1:
        return None
    parts = [
        torch.full((sizes[0] // ranks, 1), source)
        for sizes, source in zip(rules.b.sizes(shape), rules.sources, strict=True)
    ]
    return one_hot(fuse(parts, rules.b, shape)[:, 0], rules.num_sources).to(like)


def attach(chunks: Sequence[nn.Module], lora: Lora, shape: ModelShape) -> None:
    """Gives the linear layers of this rank's chunks their adapters, in place of any that they have."""
    for linear_layer, rules, place in _adapted(chunks, lora, shape):
        linear_layer.adapter = LoraAdapter(linear_layer, rules, lora, shape, place)


def freeze(chunks: Sequence[nn.Module], lora: Lora) -> None:
    """Leaves only adapters, and what else `lora` names, to be trained.

    Megatron's DDP makes no gradient for what needs none, nor its optimizer a state.
    """
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            parameter.requires_grad_(is_trained(name, lora, chunk))


def is_trained(name: str, lora: Lora, chunk: nn.Module) -> bool:
    """Whether a parameter of a chunk is one that is trained and saved."""
    if is_adapter(name):
        return True
    # The last stage's copy of an embedding that is the output layer, too.
    tied = name == "output_layer.weight" and bool(
        getattr(chunk, "share_embeddings_and_output_weights", False)
    )
    return lora.trains("embedding." if tied else split_name(name)[0])


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return ".adapter." in name


@contextmanager
def other_adapters(chunks: Sequence[nn.Module], lora: Lora, shape: ModelShape) -> Iterator[None]:
    """Has other adapters in place of the chunks' own, and gives those back."""
    every = list(_linears(chunks))
    own = [layer.adapter for layer in every]
    attach(chunks, lora, shape)
    try:
        yield
    finally:
        for layer, adapter in zip(every, own, strict=True):
            layer.adapter = adapter


@torch.no_grad()
def merge(chunks: Sequence[nn.Module]) -> None:
    """Adds every adapter to its layer's weight, where it stays."""
    for layer in _linears(chunks):
        if layer.adapter is not None:
            layer.weight.copy_(layer.adapter.merged(layer.weight))


def _linears(chunks: Sequence[nn.Module]) -> Iterator[Any]:
    for chunk in chunks:
        yield from (module for module in chunk.modules() if isinstance(module, ColumnLinear | RowLinear))


def _adapted(chunks: Sequence[Any], lora: Lora, shape: ModelShape) -> Iterator[tuple[Any, AdapterRules, str]]:
    """Every layer that gets an adapter, and its name in the whole model."""
    for chunk in chunks:
        for layer in chunk.decoder.layers:
            for rules in adapter_rules(lora, shape):
                yield layer.get_submodule(rules.linear), rules, f"{layer.layer_number} {rules.linear}"
