"""A model that is spread over tensor and pipeline ranks, brought to one rank tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nemo_pi.checkpoint.collective import Group, gather_objects, rank_in, size_of
from nemo_pi.checkpoint.hf.load import located_parameters
from nemo_pi.errors import CheckpointError
from nemo_pi.families.fusion import reorder_heads, unfuse
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import WeightRule


@dataclass(frozen=True)
class ModelGroups:
    """The process groups of one replica of the model. `None` for a group of one rank."""

    tensor: Group = None
    """Ranks that share each matrix."""
    pipeline: Group = None
    """Ranks that the layers are dealt over."""

    @property
    def tensor_rank(self) -> int:
        """This rank within the tensor group."""
        return 0 if self.tensor is None else rank_in(self.tensor)

    @property
    def pipeline_rank(self) -> int:
        """This rank within the pipeline group."""
        return 0 if self.pipeline is None else rank_in(self.pipeline)

    @property
    def is_writer(self) -> bool:
        """Whether whole tensors arrive here."""
        return self.tensor_rank == 0 and self.pipeline_rank == 0


Key = tuple[str, int | None]


def merged_weights(model_chunks: Sequence[nn.Module], shape: ModelShape) -> dict[Key, Callable[[], Tensor]]:
    """What makes the weight of each linear layer that has an adapter into one that computes what both do.

    Made when it is asked for: the model may be trained further, and all of them would be a second model.
    """
    weights = {
        tensor.data_ptr(): (rule.megatron, layer)
        for tensor, rule, layer in located_parameters(model_chunks, shape)
    }
    modules: list[Any] = [module for chunk in model_chunks for module in chunk.modules()]
    return {
        weights[module.weight.data_ptr()]: partial(module.adapter.merged, module.weight.data)
        for module in modules
        if getattr(module, "adapter", None) is not None
    }


def local_parameters(model_chunks: Sequence[nn.Module], shape: ModelShape) -> dict[Key, Tensor]:
    """This rank's parameters by (table name, global layer number); communicates nothing.

    Raises:
        CheckpointError: a parameter that has no Hugging Face counterpart.
    """
    return {(rule.megatron, layer): tensor for tensor, rule, layer in located_parameters(model_chunks, shape)}


def only_in(form: ModelShape, shape: ModelShape) -> frozenset[str]:
    """Table names of parameters that a model has as another family's only: biases, which are zeros."""
    own = {rule.megatron for rule in family_of(shape).rules(shape)}
    found = frozenset(rule.megatron for rule in family_of(form).rules(form)) - own
    assert all(name.endswith(".bias") for name in found), f"{form.family} computes another function: {found}"
    return found


def source_names(form: ModelShape, shape: ModelShape) -> dict[str, str]:
    """{tensor of a model as another family's: the tensor of its own family that holds the same numbers}."""
    own = {(rule.megatron, layer): rule for rule, layer in family_of(shape).export_order(shape)}
    found: dict[str, str] = {}
    for rule, layer in family_of(form).export_order(form):
        if (same := own.get((rule.megatron, layer))) is not None:
            theirs = same.names(layer)
            parts = enumerate(rule.names(layer))
            found |= {name: theirs[min(part, len(theirs) - 1)] for part, name in parts}
    return found


def gathered_tensors(
    local: dict[Key, Tensor],
    shape: ModelShape,
    groups: ModelGroups,
    order: Tensor | None = None,
    *,
    zeros: Collection[str] = (),
    merged: Mapping[Key, Callable[[], Tensor]] | None = None,
    rows: Sequence[tuple[WeightRule, int | None]] | None = None,
) -> Iterator[tuple[str, Tensor | None]]:
    """Every Hugging Face tensor of the model in export order; collective over both groups.

    One parameter is gathered at a time: first over the tensor ranks of the stage that holds it, then from
    there to the first stage.

    Args:
        local: this rank's parameters, from local_parameters.
        groups: this replica's process groups.
        order: int64 [head_dim] to reorder q and k with, or None.
        zeros: table names of parameters that the model does not hold, as all their numbers are 0.
        merged: from merged_weights: what takes the place of a parameter.
        rows: which parameters, in which order; None: those of a whole model.

    Yields:
        (name, tensor) on the writer, on the CPU and in the model's dtype; (name, None) elsewhere.

    Raises:
        CheckpointError: a parameter that no stage holds, on every rank.
    """
    mine = {key: tensor.dtype for key, tensor in local.items()}
    dtype = next(iter(mine.values()))
    held = [mine] if groups.pipeline is None else gather_objects(mine, groups.pipeline)
    for rule, layer in family_of(shape).export_order(shape) if rows is None else rows:
        key = (rule.megatron, layer)
        if rule.megatron in zeros:
            for name, sizes in rule.tensors(shape, layer).items():
                yield name, torch.zeros(sizes, dtype=dtype) if groups.is_writer else None
            continue
        owners = [stage for stage, keys in enumerate(held) if key in keys]
        if not owners:
            raise CheckpointError(
                rule.megatron.format(n=layer),
                required="a pipeline stage that holds it",
                given="none",
                fix="build the model with every layer of its shape",
            )
        tensors = None
        if owners[0] == groups.pipeline_rank:
            weight = merged[key]() if merged and key in merged else local[key]
            tensors = _over_tensor_ranks(weight, rule, shape, groups, order)
        device = next(iter(local.values())).device
        for number, (name, sizes) in enumerate(rule.tensors(shape, layer).items()):
            whole = None if tensors is None else tensors[number]
            # meta: the receiver learns shape and dtype from it, and no other rank spends memory on it.
            blank = torch.empty(sizes, dtype=held[owners[0]][key], device="meta")
            yield name, _to_first_stage(whole, blank, device, owners[0], groups)


def _over_tensor_ranks(
    weight: Tensor, rule: WeightRule, shape: ModelShape, groups: ModelGroups, order: Tensor | None
) -> Sequence[Tensor] | None:
    """Whole Hugging Face tensors on tensor rank 0, None on the others."""
    shards = [weight]
    if groups.tensor is not None and size_of(groups.tensor) > 1 and rule.split_dim is not None:
        shards = [torch.empty_like(weight) for _ in range(size_of(groups.tensor))]
        target = [_bytes_of(shard) for shard in shards] if groups.tensor_rank == 0 else None
        dist.gather(_bytes_of(weight.contiguous()), target, group=groups.tensor, group_dst=0)
    if groups.tensor_rank != 0:
        return None
    return stored_whole(
        [reorder_heads(unfuse(shard, rule, shape), rule, shape, order) for shard in shards], rule, shape
    )


def stored_whole(split: Sequence[Sequence[Tensor]], rule: WeightRule, shape: ModelShape) -> list[Tensor]:
    """The Hugging Face tensors of a rule, whole, from every tensor rank's slices of its parts.

    Args:
        split: of each rank, the parts in the rule's order; one rank's suffice for a replica.
    """
    parts = list(split[0])
    if rule.split_dim is not None and len(split) > 1:
        parts = [torch.cat(part, dim=rule.split_dim) for part in zip(*split, strict=True)]
    if rule.is_vocabulary:  # behind its last token is what ranks hold to share it evenly
        parts = [part[: sizes[0]] for part, sizes in zip(parts, rule.sizes(shape), strict=True)]
    rows: dict[str, list[Tensor]] = {}
    for name, part in zip(rule.huggingface, parts, strict=True):
        rows.setdefault(name, []).append(part)
    return [torch.cat(found) if len(found) > 1 else found[0] for found in rows.values()]


def _to_first_stage(
    whole: Tensor | None, blank: Tensor, device: torch.device, owner: int, groups: ModelGroups
) -> Tensor | None:
    """`whole` on the first rank of the first stage; `blank` has its shape and dtype, without storage."""
    if groups.tensor_rank != 0:
        return None
    if groups.pipeline is None or owner == 0:
        return None if whole is None else whole.to("cpu", copy=True).contiguous()
    if whole is not None:
        dist.send(_bytes_of(whole.contiguous()), group=groups.pipeline, group_dst=0)
        return None
    if groups.pipeline_rank != 0:
        return None
    received = torch.empty_like(blank, device=device)
    dist.recv(_bytes_of(received), group=groups.pipeline, group_src=owner)
    return received.cpu()


def _bytes_of(tensor: Tensor) -> Tensor:
    """The same storage as bytes: not every backend moves every dtype."""
    return tensor.view(torch.uint8)
