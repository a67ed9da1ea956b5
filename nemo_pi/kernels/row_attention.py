"""Causal attention on a CPU from whole rows of scores, multiplied by oneDNN.

torch's flash attention for CPUs multiplies by MKL (see kernels/products.py). Here a tile is some queries of
one head and all keys that any of them sees: its rows are complete, so torch's fused softmax and its fused
gradient serve, and the backward pass needs neither output nor log-sum-exp. A tile is bounded, so memory stays
linear in the sequence.

Shape legend: B batch, N query heads, G key/value heads, S tokens, D head dim, Q queries of a tile, K keys of
one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemo_pi.kernels.native_attention import tokens_first
from nemo_pi.kernels.products import ONEDNN

# Tokens for each thread below which torch's own attention, which deals heads to threads, takes no longer.
_SHORTEST = 512
# Queries of a tile for each thread: more compute more scores that the mask hides, fewer leave threads idle.
_QUERIES_PER_THREAD, _MOST_QUERIES = 256, 512
# Scores of a tile at most (16 MiB), where that leaves some queries.
_LARGEST_TILE, _FEWEST_QUERIES = 2**22, 64


def pays_off(q_BNSD: Tensor) -> bool:
    """Whether rows are long enough for this many threads; shorter ones are others' to attend to."""
    return q_BNSD.size(2) >= _SHORTEST * torch.get_num_threads()


def attend_by_rows(q_BNSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention of S queries to S keys, [B, N, S, D]; its backward pass cannot be differentiated.

    Args:
        q_BNSD, k_BGSD, v_BGSD: fp32; N is a multiple of G; all of one head dim, any strides.
        scale: of the scores; None for 1/√D.
    """
    if scale is None:
        scale = 1 / math.sqrt(q_BNSD.size(-1))
    out_BNSD: Tensor = _Rows.apply(q_BNSD, k_BGSD, v_BGSD, scale)
    return out_BNSD


class _Rows(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, q_BNSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q_BNSD, k_BGSD, v_BGSD)
        ctx.scale = scale
        out_BNSD = tokens_first(q_BNSD)
        for (row, head), group, keys in _heads(q_BNSD, k_BGSD):
            own = _Head(keys.contiguous(), v_BGSD[row, group].contiguous())
            for tile in _tiles(q_BNSD.size(2)):
                prob_QK = own.probabilities(q_BNSD[row, head, tile] * scale, tile)
                out_BNSD[row, head, tile] = ONEDNN.times_transposed(prob_QK, own.v_SD[: tile.stop].t())
        return out_BNSD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BNSD: Tensor) -> tuple[Tensor | None, ...]:
        q_BNSD, k_BGSD, v_BGSD = ctx.saved_tensors
        dq, dk, dv = (tokens_first(x) for x in ctx.saved_tensors)
        dk.zero_(), dv.zero_()
        for (row, head), group, keys in _heads(q_BNSD, k_BGSD):
            own = _Head(keys.contiguous(), v_BGSD[row, group].contiguous())
            grad_SD = grad_BNSD[row, head].contiguous()
            dk_DS, dv_DS = (torch.zeros_like(x.t(), memory_format=torch.contiguous_format) for x in own)
            for tile in _tiles(q_BNSD.size(2)):
                scaled_QD, seen = q_BNSD[row, head, tile] * ctx.scale, slice(0, tile.stop)
                prob_QK = own.probabilities(scaled_QD, tile)
                # With the wider factor on the right, these products are the faster ones.
                dv_DS[:, seen] += ONEDNN.times_transposed(grad_SD[tile].t(), prob_QK.t())
                score_QK = own.score_gradients(grad_SD[tile], prob_QK)
                dq[row, head, tile] = ONEDNN.times_transposed(score_QK, own.k_SD[seen].t()).mul_(ctx.scale)
                dk_DS[:, seen] += ONEDNN.times_transposed(scaled_QD.t(), score_QK.t())
            dk[row, group] += dk_DS.t()
            dv[row, group] += dv_DS.t()
        return dq, dk, dv, None


class _Head(NamedTuple):
    """The keys and values that one query head of one row sees."""

    k_SD: Tensor
    v_SD: Tensor

    def probabilities(self, scaled_QD: Tensor, tile: slice) -> Tensor:
        """Softmax of the tile's scores [Q, K]."""
        score_QK = ONEDNN.times_transposed(scaled_QD, self.k_SD[: tile.stop])
        # All queries of the tile see the keys before it: only its own square needs a mask.
        score_QK[:, tile.start :] += _hidden(len(scaled_QD))
        return torch.softmax(score_QK, dim=-1, out=score_QK)

    def score_gradients(self, grad_QD: Tensor, prob_QK: Tensor) -> Tensor:
        """Gradients of the tile's scores [Q, K], given those of its outputs."""
        grad_QK = ONEDNN.times_transposed(grad_QD, self.v_SD[: prob_QK.size(1)])
        result: Tensor = torch.ops.aten._softmax_backward_data(
            grad_QK, prob_QK, -1, grad_QK.dtype, grad_input=grad_QK
        )
        return result


def _heads(q_BNSD: Tensor, k_BGSD: Tensor) -> Iterator[tuple[tuple[int, int], int, Tensor]]:
    """Row and number of every query head, the number of its key head, and its keys [S, D]."""
    shared = q_BNSD.size(1) // k_BGSD.size(1)
    for row in range(q_BNSD.size(0)):
        for head in range(q_BNSD.size(1)):
            yield (row, head), head // shared, k_BGSD[row, head // shared]


def _tiles(length: int) -> Iterator[slice]:
    """Queries of one tile each, in order."""
    most = min(_QUERIES_PER_THREAD * torch.get_num_threads(), _MOST_QUERIES)
    size = max(min(most, _LARGEST_TILE // length), _FEWEST_QUERIES)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _hidden(queries: int) -> Tensor:
    """What hides later tokens from a tile's last keys, its own queries' [Q, Q]."""
    return torch.full((queries, queries), -math.inf).triu_(1)
