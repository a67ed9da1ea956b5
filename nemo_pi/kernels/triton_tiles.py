"""The Triton side of kernels/triton_rotary.py: what one program does with its tile of heads.

A pair's two channels are read and written by the same program, and what is written to a place depends on
what was read there, so target and source may be the same memory.

Shapes: T, U leading axes (token n = t·size of U + u), G groups, R heads of a group, H heads of a tile,
N tokens of a tile, D channels, F = rotated channels / 2.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def rotate_kernel(
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
