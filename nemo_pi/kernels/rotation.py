"""The job that every rotary kernel of ours does, in one form for all layouts.

Shapes: T and U two leading axes (S and B of sbhd, B and S of bshd, tokens and 1 of thd), G groups of heads,
R heads of a group, D channels of a head, F = rotated channels / 2. Layouts differ in strides alone, so a
query inside the output of a fused QKV projection is read where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Heads(NamedTuple):
    """Query and key heads to be rotated, and value heads that are only moved, each [T, U, G, R, D]."""

    q: Tensor
    k: Tensor
    v: Tensor | None = None


@dataclass(frozen=True)
class Angles:
    """By how much each token's heads are turned."""

    cos_TUF: Tensor
    """Cosines, the attention temperature folded in; fp32 (fp64 for fp64 heads)."""
    sin_TUF: Tensor
    """Sines, likewise."""
    interleaved: bool
    """Whether pairs are channels (2j, 2j+1) rather than (j, j + F)."""
    inverse: bool = False
    """Whether to turn the other way: the gradient of a rotation is the rotation by the negative angle."""

    @property
    def rotary_dim(self) -> int:
        """Rotated channels of a head."""
        return 2 * self.cos_TUF.shape[-1]


class Rotation(Protocol):
    """Writes the rotated heads of `source` into `target`, which may be the very same tensors (in place).

    Computes in fp32 (fp64 for fp64 heads) and rounds once, at the end. Channels that are not rotated, and v,
    are copied unless they are already where they belong. Nothing here knows of autograd.
    """

    def __call__(self, source: Heads, target: Heads, angles: Angles) -> None: ...


def as_heads(x_ND: Tensor) -> Tensor:
    """[..., N, D] with any leading axes as [T, U, N, 1, D]; a view where there are at most two of them."""
    while x_ND.dim() < 4:
        x_ND = x_ND.unsqueeze(-3)
    return x_ND.flatten(0, -4).unsqueeze(-2)


def angles_for(x_ND: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, inverse: bool = False) -> Angles:
    """The tables of as_heads(x_ND), from tables as kernels/reference.py takes them: expanded, not copied."""
    if 2 * cos.shape[-1] > x_ND.shape[-1]:
        raise ValueError(f"cannot rotate {2 * cos.shape[-1]} channels of a head that has {x_ND.shape[-1]}")
    wanted = torch.promote_types(x_ND.dtype, torch.float32)
    if cos.dtype != sin.dtype or torch.promote_types(cos.dtype, wanted) != cos.dtype:
        raise TypeError(f"cosines and sines must be {wanted} or wider; got {cos.dtype} and {sin.dtype}")
    cos, sin = (_without_head_axis(table, x_ND) for table in (cos, sin))
    return Angles(cos, sin, interleaved, inverse)


def _without_head_axis(table: Tensor, x_ND: Tensor) -> Tensor:
    if table.dim() == x_ND.dim():
        if table.shape[-2] != 1:
            raise ValueError(f"cosines and sines are the same for all heads; got {table.shape[-2]} of them")
        table = table.squeeze(-2)
    table = table.expand(*x_ND.shape[:-2], table.shape[-1])
    while table.dim() < 3:
        table = table.unsqueeze(-2)
    return table.flatten(0, -3)
