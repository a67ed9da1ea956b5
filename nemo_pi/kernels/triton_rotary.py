"""Rotation as one Triton kernel: q and k, and where asked v, in a single launch.

It reads heads by strides (sbhd, bshd, thd, or inside a fused QKV projection), tables of each token's own
angles in fp32, any number of query and key heads, both pairings of channels, any rotary dim up to the head's,
and may write where it reads. Offsets are 64-bit. It refuses heads of more than 256 channels.

Angles come from tables rather than from positions inside the kernel: a table holds what float64 gives, at any
position and for every method, and its 8·F bytes a token are little beside the 8·N·F that N heads in bf16 are
read and written with (docs/performance.md has the arithmetic).

Tile sizes are by arithmetic; nothing has been tuned.

Shapes: as kernels/rotation.py.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
from torch import Tensor

from nemo_pi.kernels.rotation import Angles, Heads
from nemo_pi.kernels.triton_tiles import rotate_kernel

MAX_HEAD_DIM = 256
"""Channels of a head that a tile is laid out for."""

_TILE_PAIRS = 2048
"""Pairs of channels in a tile: 16 for each of 128 threads; 8 KiB read and 8 KiB written in bf16."""
_NUM_WARPS = 4


def rotate_heads(source: Heads, target: Heads, angles: Angles) -> None:
    """kernels.rotation.Rotation as one launch.

    Raises:
        ValueError: heads have more than 256 channels.
    """
    head_dim = source.q.shape[-1]
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"the Triton kernel takes heads of up to {MAX_HEAD_DIM} channels; got {head_dim}")
    if source.q.numel() == 0:
        return
    source = Heads(*(None if x is None else _with_adjacent_channels(x) for x in source))  # type: ignore[arg-type]
    cos, sin = _with_equal_strides(angles.cos_TUF, angles.sin_TUF)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device(source.q.device) if source.q.is_cuda else nullcontext():
        _launch(source, target, cos, sin, angles)


def _with_adjacent_channels(x: Tensor) -> Tensor:
    """As it is, or copied: the gradient of a sum arrives as one number seen many times."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _with_equal_strides(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    if cos.stride() == sin.stride() and cos.stride(-1) == 1:
        return cos, sin
    return cos.contiguous(), sin.contiguous()


def _launch(source: Heads, target: Heads, cos: Tensor, sin: Tensor, angles: Angles) -> None:
    q, k, moves_v = source.q, source.k, source.v is not None and target.v is not None
    # Without v its place in the arguments is taken by k, and no program reads it.
    v, v_out = (source.v, target.v) if source.v is not None and target.v is not None else (k, target.k)
    q_heads, k_heads, per_group, head_dim = q.shape[2] * q.shape[3], k.shape[2], q.shape[3], q.shape[4]
    pairs, num_tokens = cos.shape[-1], q.shape[0] * q.shape[1]
    # In place, channels that are not rotated are where they belong.
    passed = 0 if q.data_ptr() == target.q.data_ptr() else head_dim - 2 * pairs
    block_f = triton.next_power_of_2(pairs)
    block_h = _heads_of_a_tile(q_heads, k_heads, block_f)
    block_n = max(1, _TILE_PAIRS // (block_f * block_h))
    q_tiles, k_tiles = triton.cdiv(q_heads, block_h), triton.cdiv(k_heads, block_h)
    rotate_kernel[(triton.cdiv(num_tokens, block_n), q_tiles + k_tiles * (2 if moves_v else 1))](
        q, k, v, *target[:2], v_out, cos, sin,
        *q.stride()[:4], *k.stride()[:3], *v.stride()[:3],
        *target.q.stride()[:4], *target.k.stride()[:3], *v_out.stride()[:3],
        *cos.stride()[:2], num_tokens, q.shape[1],
        q_heads, per_group, k_heads, pairs, head_dim, passed, angles.interleaved, angles.inverse,
        q_tiles, k_tiles, block_n, block_h, block_f,
        triton.next_power_of_2(max(1, passed)), triton.next_power_of_2(head_dim),
        num_warps=_NUM_WARPS,
    )  # fmt: skip


def _heads_of_a_tile(q_heads: int, k_heads: int, block_f: int) -> int:
    """As many as k has, so that neither q's tiles nor k's are half empty; at least 4 where q has them."""
    most = triton.next_power_of_2(q_heads)
    return min(most, max(4, triton.next_power_of_2(k_heads)), max(1, _TILE_PAIRS // block_f))
