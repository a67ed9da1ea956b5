"""Rotation of q and k in plain PyTorch: the truth that every faster kernel is compared with.

Shapes: … any leading dimensions, N heads, D channels of a head, F = rotated channels / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rotary(x_ND: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate pairs of channels by the angles behind cos and sin (arXiv 2104.09864, equation 34).

    Args:
        x_ND: [..., N, D] of any floating dtype.
        cos_F, sin_F: fp32, [..., F] without a head axis (the same for all heads), or [..., 1, F] with as many
            axes as x has; the others broadcast. 2F ≤ D; channels from 2F on pass through untouched.
        interleaved: whether pairs are channels (2j, 2j+1) rather than (j, j + F).

    Returns:
        [..., N, D] in x's dtype; computed in fp32 (fp64 for fp64 inputs) and downcast last.
    """
    rotary_dim = 2 * cos_F.shape[-1]
    if rotary_dim > x_ND.shape[-1]:
        raise ValueError(f"cannot rotate {rotary_dim} channels of a head that has {x_ND.shape[-1]}")
    cos, sin = (table if table.dim() == x_ND.dim() else table.unsqueeze(-2) for table in (cos_F, sin_F))
    rotated, passed = x_ND[..., :rotary_dim], x_ND[..., rotary_dim:]
    first, second = _split(rotated.to(torch.promote_types(x_ND.dtype, torch.float32)), interleaved)
    turned = first * cos - second * sin, second * cos + first * sin
    joined = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    joined = joined.to(x_ND.dtype)
    return torch.cat((joined, passed), dim=-1) if passed.shape[-1] else joined


def _split(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    first, second = x.chunk(2, dim=-1)
    return first, second


def rotate_query_key(
    q: Tensor, k: Tensor, cos_F: Tensor, sin_F: Tensor, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """apply_rotary on both; the call every rotary kernel answers to."""
    return apply_rotary(q, cos_F, sin_F, interleaved), apply_rotary(k, cos_F, sin_F, interleaved)
