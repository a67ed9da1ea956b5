"""Parts into one Megatron parameter and back, and heads' channels into another order.

Shape legend: H hidden size (absent in a bias), N query heads, G key/value groups, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_pi.families.shape import ModelShape
from nemo_pi.families.weights import WeightRule
from nemo_pi.rope.channel_order import halves_from_interleaved, interleaved_from_halves
from nemo_pi.rope.spec import ContextExtension


def fuse(parts: Sequence[Tensor], rule: WeightRule, shape: ModelShape) -> Tensor:
    """One rank's Megatron parameter from its slices of the parts.

    qkv: q [g·N/G·D, H], k and v [g·D, H] become [g·(N/G + 2)·D, H] with each group's query heads, key
    and value side by side (g groups on this rank).
    """
    if len(parts) == 1:
        return parts[0]
    if not rule.by_group:
        return torch.cat(list(parts))
    groups = parts[1].shape[0] // shape.head_dim
    return torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)


def unfuse(weight: Tensor, rule: WeightRule, shape: ModelShape) -> tuple[Tensor, ...]:
    """The inverse of `fuse`: one rank's slices of the parts."""
    if len(rule.huggingface) == 1:
        return (weight,)
    if rule.by_group:
        per_group = shape.num_attention_heads // shape.num_query_groups
        sections = [per_group * shape.head_dim, shape.head_dim, shape.head_dim]
        grouped = weight.unflatten(0, (-1, sum(sections)))
        return tuple(part.flatten(0, 1) for part in grouped.split(sections, dim=1))
    # A rank holds the same share of every part.
    rows = [sizes[0] for sizes in rule.sizes(shape)]
    return weight.split([count * weight.shape[0] // sum(rows) for count in rows])


def reorder_heads(
    parts: Sequence[Tensor], rule: WeightRule, shape: ModelShape, index: Tensor | None
) -> Sequence[Tensor]:
    """The rotated parts with each head's channels in another order; every other part as it is.

    Args:
        parts: one rank's slices of the parts of `rule`, whole heads each.
        index: int64 [head_dim], from nemo_pi.rope.channel_order; None leaves the order alone.
    """
    if index is None:
        return parts
    if rule.by_group and len(parts) == 1:
        # [g, N/G + 2, D, …]: all but each group's value.
        heads = shape.num_attention_heads // shape.num_query_groups + 2
        grouped = parts[0].unflatten(0, (-1, heads, shape.head_dim))
        turned = torch.cat((grouped[:, :-1, index], grouped[:, -1:]), dim=1)
        return [turned.flatten(0, 2)]
    return [
        part.unflatten(0, (-1, shape.head_dim))[:, index].flatten(0, 1) if number in rule.rotated else part
        for number, part in enumerate(parts)
    ]


def trained_order(extension: ContextExtension, interleaved: bool) -> Tensor | None:
    """Where each channel that a model trains stands among the stored ones; None where they are alike.

    Args:
        extension: of the model.
        interleaved: whether the stored tensors pair neighbouring channels (Family.interleaved).
    """
    if extension.interleaved == interleaved:
        return None
    make = interleaved_from_halves if extension.interleaved else halves_from_interleaved
    return make(extension.head_dim, extension.rotary_dim)


def stored_order(extension: ContextExtension, interleaved: bool) -> Tensor | None:
    """The inverse of trained_order."""
    order = trained_order(extension, interleaved)
    return None if order is None else torch.argsort(order)
