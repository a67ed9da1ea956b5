"""Attention written out in float64, one query at a time.

Shape legend: S sequence, B batch, N query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def naive_attention(
    query_SBND: Tensor,
    key_SBGD: Tensor,
    value_SBGD: Tensor,
    starts: Sequence[Sequence[int]] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """Output [S, B, N·D] in float64.

    Args:
        starts: per row, where its documents start; None: every row is one document.
        window: tokens that a query sees, itself among them; None for all.
        scale: of the scores; None for 1/√D.
    """
    query, key, value = (x.double() for x in (query_SBND, key_SBGD, value_SBGD))
    length, rows, heads, head_dim = query.shape
    out = torch.zeros(length, rows, heads, head_dim, dtype=torch.float64)
    for b in range(rows):
        for s in range(length):
            first = max(start for start in (starts[b] if starts else (0,)) if start <= s)
            if window is not None:
                first = max(first, s - window + 1)
            for n in range(heads):
                g = n * key.size(2) // heads
                scores = key[first : s + 1, b, g] @ query[s, b, n] * (scale or 1 / math.sqrt(head_dim))
                out[s, b, n] = torch.softmax(scores, 0) @ value[first : s + 1, b, g]
    return out.flatten(2)
