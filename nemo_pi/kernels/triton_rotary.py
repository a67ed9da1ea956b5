"""Rotation as one Triton kernel: q and k, and where asked v, in a single launch.

It reads heads by strides (sbhd, bshd, thd, or inside a fused QKV projection), tables of each token's own
angles in fp32, any number of query and key heads, both pairings of channels, any rotary dim up to the head's,
and may write where it reads. Offsets are 64-bit. It refuses heads of more than 256 channels.

Angles come from tables rather than from positions inside the kernel: a table holds what float64 gives, at any
position and for every method, and its 8·F bytes a token are little beside the 8·N·F that N heads in bf16 are
read and written with (docs/performance.md has the arithmetic).

A pair's two channels are read and written by the same program, and what is written to a place depends on
what was read there, so working in place is safe. Nothing has been tuned: tile sizes are by arithmetic.

Shapes: T, U leading axes (token n = t·size of U + u), G groups, R heads of a group, H heads of a tile,
N tokens of a tile, D channels, F = rotated channels / 2.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from nemo_pi.kernels.rotation import Angles, Heads

MAX_HEAD_DIM = 256
"""Channels of a head that a tile is laid out for."""

_TILE_PAIRS = 2048
"""Pairs of channels in a tile: 16 for each of 128 threads; 8 KiB read and 8 KiB written in bf16."""
_NUM_WARPS = 4


@triton.jit
def _places(t_N, u_N, head_H, stride_T, stride_U, stride_G, stride_R, PER_GROUP: tl.constexpr):
    """Offsets [N, H, 1] of the first channel of each token's heads, in 64 bits."""
    group_H = (head_H // PER_GROUP).to(tl.int64)
    inner_H = (head_H % PER_GROUP).to(tl.int64)
    token_N = t_N * stride_T + u_N * stride_U
    return (token_N[:, None] + (group_H * stride_G + inner_H * stride_R)[None, :])[:, :, None]


@triton.jit
def _move(source, from_NH1, target, to_NH1, live_NH1, FIRST, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Copies channels FIRST … of each head."""
    channel = tl.arange(0, BLOCK)[None, None, :]
    live = live_NH1 & (channel < CHANNELS)
    x = tl.load(source + from_NH1 + FIRST + channel, mask=live, other=0.0)
    tl.store(target + to_NH1 + FIRST + channel, x, mask=live)


@triton.jit
def _turn_halves(
    source, from_NH1, target, to_NH1, live_NH1, cos, sin, PAIRS: tl.constexpr, BLOCK_F: tl.constexpr
):  # fmt: skip
    """Pairs (j, j + F)."""
    pair = tl.arange(0, BLOCK_F)[None, None, :]
    live = live_NH1 & (pair < PAIRS)
    first = tl.load(source + from_NH1 + pair, mask=live, other=0.0).to(tl.float32)
    second = tl.load(source + from_NH1 + pair + PAIRS, mask=live, other=0.0).to(tl.float32)
    out_type = target.dtype.element_ty
    tl.store(target + to_NH1 + pair, (first * cos - second * sin).to(out_type), mask=live)
    tl.store(target + to_NH1 + pair + PAIRS, (second * cos + first * sin).to(out_type), mask=live)


@triton.jit
def _turn_neighbours(
    source, from_NH1, target, to_NH1, live_NH1, cos, sin,
    PAIRS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Pairs (2j, 2j + 1), read and written as whole runs of channels."""
    channel = tl.arange(0, 2 * BLOCK_F)[None, None, :]
    live = live_NH1 & (channel < 2 * PAIRS)
    both = tl.load(source + from_NH1 + channel, mask=live, other=0.0).to(tl.float32)
    first, second = tl.split(tl.reshape(both, [BLOCK_N, BLOCK_H, BLOCK_F, 2]))
    turned = tl.join(first * cos - second * sin, second * cos + first * sin)
    joined = tl.reshape(turned, [BLOCK_N, BLOCK_H, 2 * BLOCK_F]).to(target.dtype.element_ty)
    tl.store(target + to_NH1 + channel, joined, mask=live)


@triton.jit
def _turn(
    source, from_NH1, target, to_NH1, live_NH1, cos, sin,
    PAIRS: tl.constexpr, PASSED: tl.constexpr, INTERLEAVED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Turns PAIRS pairs of each head and copies the PASSED channels after them."""
    if INTERLEAVED:
        _turn_neighbours(
            source, from_NH1, target, to_NH1, live_NH1, cos, sin, PAIRS, BLOCK_N, BLOCK_H, BLOCK_F
        )
    else:
        _turn_halves(source, from_NH1, target, to_NH1, live_NH1, cos, sin, PAIRS, BLOCK_F)
    if PASSED > 0:
        _move(source, from_NH1, target, to_NH1, live_NH1, 2 * PAIRS, PASSED, BLOCK_P)


@triton.jit
def _rotate_kernel(
    q, k, v, q_out, k_out, v_out, cos, sin,
    q_T, q_U, q_G, q_R, k_T, k_U, k_G, v_T, v_U, v_G,
    q_out_T, q_out_U, q_out_G, q_out_R, k_out_T, k_out_U, k_out_G, v_out_T, v_out_U, v_out_G,
    table_T, table_U, num_tokens, size_U,
    Q_HEADS: tl.constexpr, PER_GROUP: tl.constexpr, K_HEADS: tl.constexpr, PAIRS: tl.constexpr,
    HEAD_DIM: tl.constexpr, PASSED: tl.constexpr, INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr,
    Q_TILES: tl.constexpr, K_TILES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Program (i, j): tokens from i·BLOCK_N; as j goes up, tiles of q's heads, then k's, then v's."""
    tile = tl.program_id(1)
    token_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live_N = token_N < num_tokens
    # A count of tokens fits 32 bits; a count of elements need not.
    t_N, u_N = (token_N // size_U).to(tl.int64), (token_N % size_U).to(tl.int64)
    pair = tl.arange(0, BLOCK_F)[None, :]
    table = (t_N * table_T + u_N * table_U)[:, None] + pair
    live = live_N[:, None] & (pair < PAIRS) & (tile < Q_TILES + K_TILES)
    cos_N1F = tl.load(cos + table, mask=live, other=0.0)[:, None, :]
    sin_N1F = tl.load(sin + table, mask=live, other=0.0)[:, None, :]
    if INVERSE:
        sin_N1F = -sin_N1F
    if tile < Q_TILES:
        head_H = tile * BLOCK_H + tl.arange(0, BLOCK_H)
        live_NH1 = (live_N[:, None] & (head_H < Q_HEADS)[None, :])[:, :, None]
        here = _places(t_N, u_N, head_H, q_T, q_U, q_G, q_R, PER_GROUP)
        there = _places(t_N, u_N, head_H, q_out_T, q_out_U, q_out_G, q_out_R, PER_GROUP)
        _turn(
            q, here, q_out, there, live_NH1, cos_N1F, sin_N1F,
            PAIRS, PASSED, INTERLEAVED, BLOCK_N, BLOCK_H, BLOCK_F, BLOCK_P,
        )  # fmt: skip
    else:
        head_H = (tile - Q_TILES) % K_TILES * BLOCK_H + tl.arange(0, BLOCK_H)
        live_NH1 = (live_N[:, None] & (head_H < K_HEADS)[None, :])[:, :, None]
        if tile < Q_TILES + K_TILES:
            here = _places(t_N, u_N, head_H, k_T, k_U, k_G, 0, 1)
            there = _places(t_N, u_N, head_H, k_out_T, k_out_U, k_out_G, 0, 1)
            _turn(
                k, here, k_out, there, live_NH1, cos_N1F, sin_N1F,
                PAIRS, PASSED, INTERLEAVED, BLOCK_N, BLOCK_H, BLOCK_F, BLOCK_P,
            )  # fmt: skip
        else:
            here = _places(t_N, u_N, head_H, v_T, v_U, v_G, 0, 1)
            there = _places(t_N, u_N, head_H, v_out_T, v_out_U, v_out_G, 0, 1)
            _move(v, here, v_out, there, live_NH1, 0, HEAD_DIM, BLOCK_D)


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
    passed = 0 if q.data_ptr() == target.q.data_ptr() else head_dim - 2 * pairs
    block_f = triton.next_power_of_2(pairs)
    block_h = _heads_of_a_tile(q_heads, k_heads, block_f)
    block_n = max(1, _TILE_PAIRS // (block_f * block_h))
    q_tiles, k_tiles = triton.cdiv(q_heads, block_h), triton.cdiv(k_heads, block_h)
    _rotate_kernel[(triton.cdiv(num_tokens, block_n), q_tiles + k_tiles * (2 if moves_v else 1))](
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
