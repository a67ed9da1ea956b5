"""Rotations that autograd can follow, without keeping anything but the tables.

The gradient of a rotation is the rotation by the negative angle, so neither q nor k is saved.

Shapes: S sequence, B batch, N query heads, G groups (key/value heads), R query heads of a group, D channels
of a head, F = rotated channels / 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemo_pi.kernels.rotation import Angles, Heads, Rotation, angles_for, as_heads


def rotate_query_key(
    rotation: Rotation, q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """q [..., N, D] and k [..., G, D] rotated, as new tensors; see kernels/reference.py for the arguments."""
    _refuse_gradients_of_tables(cos_F, sin_F)
    turned: tuple[Tensor, Tensor] = _RotateQueryKey.apply(rotation, q, k, cos_F, sin_F, interleaved, False)
    return turned


def rotate_fused_qkv(
    rotation: Rotation,
    mixed_SBGH: Tensor,
    cos_F: Tensor,
    sin_F: Tensor,
    head_dim: int,
    interleaved: bool = False,
    *,
    in_place: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Splits the output of a fused QKV projection into q, k and v, q and k rotated, in one pass.

    Args:
        rotation: does the work.
        mixed_SBGH: [S, B, G, (R + 2)·D], as Megatron lays it out: each group's query heads, then its key and
            its value. Any strides with the channels next to each other.
        cos_F, sin_F: fp32 [S, B, F] or [S, B, 1, F].
        head_dim: D.
        interleaved: whether pairs are channels (2j, 2j+1) rather than (j, j + F).
        in_place: allow q and k to be turned where they lie. Only for a tensor that nobody reads again: its
            values change. It happens where autograd permits (the tensor is no leaf that wants a gradient)
            and the heads of q can be seen as one axis without a copy (R or G is 1). What produced the tensor
            must not need its own output for the backward pass: a linear layer does not, and for anything
            that does, autograd finds the changed version and raises.

    Returns:
        q [S, B, G·R, D], k and v [S, B, G, D]. In place, they are views of mixed_SBGH; otherwise new and
        contiguous, v as well, so that nothing keeps mixed_SBGH alive.
    """
    _refuse_gradients_of_tables(cos_F, sin_F)
    per_group = mixed_SBGH.shape[-1] // head_dim - 2
    one_axis = per_group == 1 or mixed_SBGH.shape[-2] == 1
    permitted = not (mixed_SBGH.is_leaf and mixed_SBGH.requires_grad)
    here = in_place and one_axis and permitted
    split: tuple[Tensor, Tensor, Tensor] = _RotateFusedQKV.apply(
        rotation, mixed_SBGH, cos_F, sin_F, head_dim, interleaved, here
    )
    return split


def _refuse_gradients_of_tables(cos: Tensor, sin: Tensor) -> None:
    if cos.requires_grad or sin.requires_grad:
        raise ValueError("cosines and sines are constants here; their gradient is not computed")


class _RotateQueryKey(torch.autograd.Function):
    """Differentiable any number of times: its gradient is itself, the other way round."""

    @staticmethod
    def forward(
        ctx: Any,
        rotation: Rotation,
        q: Tensor,
        k: Tensor,
        cos: Tensor,
        sin: Tensor,
        interleaved: bool,
        inverse: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.rotation, ctx.interleaved, ctx.inverse = rotation, interleaved, inverse
        turned = q.new_empty(q.shape), k.new_empty(k.shape)
        angles = angles_for(q, cos, sin, interleaved, inverse)
        rotation(Heads(as_heads(q), as_heads(k)), Heads(as_heads(turned[0]), as_heads(turned[1])), angles)
        return turned

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        back = _RotateQueryKey.apply(
            ctx.rotation, *grads, *ctx.saved_tensors, ctx.interleaved, not ctx.inverse
        )
        return None, *back, None, None, None, None


class _RotateFusedQKV(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rotation: Rotation,
        mixed: Tensor,
        cos: Tensor,
        sin: Tensor,
        head_dim: int,
        interleaved: bool,
        in_place: bool,
    ) -> tuple[Tensor, ...]:
        source = _split(mixed, head_dim)
        ctx.save_for_backward(cos, sin)
        ctx.rotation, ctx.shape, ctx.head_dim, ctx.interleaved = rotation, mixed.shape, head_dim, interleaved
        angles = _fused_angles(mixed, cos, sin, head_dim, interleaved)
        if in_place:
            target = source
            rotation(Heads(source.q, source.k), Heads(source.q, source.k), angles)
            # A kernel outside PyTorch changes values unseen; whoever saved them must find out.
            torch.autograd.graph.increment_version(mixed)
        else:
            target = Heads(*(x.new_empty(x.shape) for x in source if x is not None))
            rotation(source, target, angles)
        # Detached: to autograd these are new tensors, not views that it would have to re-derive.
        return tuple(x.flatten(2, 3).detach() for x in target if x is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mixed = grads[0].new_empty(ctx.shape)
        target = _split(mixed, ctx.head_dim)
        groups = ctx.shape[-2]
        source = Heads(*(grad.unflatten(2, (groups, -1)) for grad in grads))
        cos, sin = ctx.saved_tensors
        angles = _fused_angles(mixed, cos, sin, ctx.head_dim, ctx.interleaved, inverse=True)
        ctx.rotation(source, target, angles)
        return None, mixed, None, None, None, None, None


def _split(mixed_SBGH: Tensor, head_dim: int) -> Heads:
    """Views [S, B, G, R or 1, D] of the query, key and value heads."""
    heads = mixed_SBGH.unflatten(-1, (-1, head_dim))
    return Heads(heads[..., :-2, :], heads[..., -2:-1, :], heads[..., -1:, :])


def _fused_angles(
    mixed: Tensor, cos: Tensor, sin: Tensor, head_dim: int, interleaved: bool, inverse: bool = False
) -> Angles:
    return angles_for(mixed[..., :head_dim], cos, sin, interleaved, inverse)
