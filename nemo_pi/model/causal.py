"""Causal attention of the last queries of a chunk to all of its keys, by the backend that is given.

Nothing here holds a score matrix or a mask that grows with the square of the sequence.

Shape legend: B batch, N query heads, G key/value heads, Q queries, K keys (Q ≤ K), D head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from nemo_pi.kernels.attention import SDPA, CausalAttention

# Queries attended to at once where a mask has to be given, at least; fewer would be many small calls.
_SMALLEST_BLOCK = 512


def attend_causally(
    q_BNQD: Tensor,
    k_BGKD: Tensor,
    v_BGKD: Tensor,
    *,
    scale: float | None = None,
    lookback: int | None = None,
    backend: CausalAttention = SDPA,
) -> Tensor:
    """Attention output [B, N, Q, D]; query i stands at the place of key K − Q + i and sees none behind it.

    Args:
        q_BNQD, k_BGKD, v_BGKD: N is a multiple of G (grouped queries).
        scale: of the scores; None for 1/√D.
        lookback: keys seen before the query's own (sliding window); None for all.
        backend: what attends where no window hides anything and the call is one that it takes.
    """
    queries, keys = q_BNQD.size(2), k_BGKD.size(2)
    # A window that hides nothing at this length needs no blocks with masks.
    if lookback is not None and keys > lookback + 1:
        return _in_blocks(q_BNQD, k_BGKD, v_BGKD, scale, lookback)
    for attention in (backend, SDPA):
        if attention.takes(q_BNQD, k_BGKD, v_BGKD):
            return attention.attend(q_BNQD, k_BGKD, v_BGKD, scale)
    if q_BNQD.is_cuda and q_BNQD.dtype in (torch.float16, torch.bfloat16):
        # Flash attention aligns its causal mask so, without a mask tensor; other kernels do not.
        return scaled_dot_product_attention(
            q_BNQD,
            k_BGKD,
            v_BGKD,
            attn_mask=causal_lower_right(queries, keys),
            scale=scale,
            enable_gqa=q_BNQD.size(1) != k_BGKD.size(1),
        )
    return _in_blocks(q_BNQD, k_BGKD, v_BGKD, scale, keys)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float | None, lookback: int) -> Tensor:
    """Block by block of queries, each with a mask over the keys that its queries may see."""
    queries, behind = q.size(2), k.size(2) - q.size(2)
    # As long as the window: a block then computes about twice the scores that are seen; longer ones compute
    # more, and shorter ones are more calls.
    size = _SMALLEST_BLOCK if lookback >= k.size(2) else max(lookback + 1, _SMALLEST_BLOCK)
    place = torch.arange(k.size(2), device=q.device)
    parts = []
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        seen = slice(max(0, behind + start - lookback), behind + stop)
        distance = place[behind + start : behind + stop, None] - place[seen]
        mask = (distance >= 0) & (distance <= lookback)
        parts.append(_sdpa(q[:, :, start:stop], k[:, :, seen], v[:, :, seen], mask, scale))
    return torch.cat(parts, dim=2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.size(1) != k.size(1)
    )
