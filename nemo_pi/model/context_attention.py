"""Causal attention over rows that are split over context-parallel ranks.

Keys and values of all ranks are gathered, a few heads at a time, and each rank's queries attend to as many
as they may see. What is kept for the backward pass is each rank's own share: keys and values are gathered
again there and the attention is computed again, piece by piece, and their gradients are added up over the
ranks and scattered. So what a layer keeps falls with the number of ranks, and what passes through is bounded.

Order is that of the tokens in their row, never that of their positions: those may skip (PoSE) or start again
(documents).

Shape legend: B rows, S tokens of a whole row, L = S/cp tokens of this rank's share, N query heads, G
key/value heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_pi.parallel.context import ContextSplit, Piece

# Bytes of gathered keys and values at once; more heads of a short sequence, fewer of a long one.
_GATHERED_BYTES = 256 * 2**20
# Queries of one backward pass where their keys begin before them.
_BLOCK_QUERIES = 512

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q [1, N, Q, D], k and v [1, G, K, D] to [1, N, Q, D]: the last Q of K tokens attend causally."""


@dataclass(frozen=True)
class SplitRows:
    """One micro-batch's rows as the ranks of a group hold them, and how attention runs on them."""

    split: ContextSplit
    """Which tokens of each row every rank holds, and which keys they may see."""
    group: dist.ProcessGroup
    """The context-parallel ranks."""
    attend: Attend
    """Attention of one piece."""

    def gather(self, k_LBGD: Tensor, v_LBGD: Tensor) -> list[Tensor]:
        """Keys and values of whole rows, per row [2, 1, G, S, D], in the order of the tokens."""
        mine = torch.stack((k_LBGD, v_LBGD), dim=1)
        everyone = mine.new_empty(self.split.size * mine.size(0), *mine.shape[1:])
        dist.all_gather_into_tensor(everyone, mine, group=self.group)
        rows = zip(everyone.unbind(2), self.split.order_BS, strict=True)
        return [
            torch.empty_like(row).index_copy_(0, order, row).permute(1, 2, 0, 3).unsqueeze(1)
            for row, order in rows
        ]

    def scatter(self, gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Adds gradients of whole rows up over the ranks; returns this rank's share of k's and v's."""
        rows = zip(gradients, self.split.order_BS, strict=True)
        everyone = torch.stack([row.squeeze(1).permute(2, 0, 1, 3)[order] for row, order in rows], dim=2)
        mine = everyone.new_empty(everyone.size(0) // self.split.size, *everyone.shape[1:])
        dist.reduce_scatter_tensor(mine, everyone, group=self.group)
        return mine[:, 0], mine[:, 1]


def attend_split_rows(q_LBND: Tensor, k_LBGD: Tensor, v_LBGD: Tensor, rows: SplitRows) -> Tensor:
    """Attention output [L, B, N, D] of this rank's queries; collective over the group, backward as well."""
    groups = k_LBGD.size(2)
    per_head = 2 * k_LBGD.element_size() * k_LBGD[:, :, 0].numel() * rows.split.size
    at_once = min(groups, max(1, _GATHERED_BYTES // per_head))
    queries_per_key = q_LBND.size(2) // groups
    parts = zip(
        q_LBND.split(at_once * queries_per_key, dim=2),
        k_LBGD.split(at_once, dim=2),
        v_LBGD.split(at_once, dim=2),
        strict=True,
    )
    return torch.cat([_SplitAttention.apply(*part, rows) for part in parts], dim=2)


class _SplitAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_LBND: Tensor, k_LBGD: Tensor, v_LBGD: Tensor, rows: SplitRows) -> Tensor:
        ctx.save_for_backward(q_LBND, k_LBGD, v_LBGD)
        ctx.rows = rows
        out_LBND = torch.empty_like(q_LBND)
        for b, (k, v) in enumerate(rows.gather(k_LBGD, v_LBGD)):
            for queries, keys in rows.split.pieces[b]:
                part = rows.attend(_heads_first(q_LBND, queries, b), k[:, :, keys], v[:, :, keys])
                out_LBND[queries, b] = _tokens_first(part)
        return out_LBND

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_LBND, k_LBGD, v_LBGD = ctx.saved_tensors
        rows: SplitRows = ctx.rows
        dq_LBND, gradients = torch.empty_like(q_LBND), []
        for b, whole in enumerate(rows.gather(k_LBGD, v_LBGD)):
            # fp32: several pieces and ranks add up to one gradient.
            sums = torch.zeros_like(whole, dtype=torch.float32)
            for queries, keys in chain.from_iterable(map(_blocks, rows.split.pieces[b])):
                inputs = (_heads_first(q_LBND, queries, b), whole[0][:, :, keys], whole[1][:, :, keys])
                upper = _heads_first(upstream[0], queries, b)
                dq, dk, dv = _gradients(rows.attend, inputs, upper)
                dq_LBND[queries, b] = _tokens_first(dq)
                sums[0, :, :, keys] += dk
                sums[1, :, :, keys] += dv
            gradients.append(sums)
        dk_LBGD, dv_LBGD = rows.scatter(gradients)
        return dq_LBND, dk_LBGD.to(k_LBGD.dtype), dv_LBGD.to(v_LBGD.dtype), None


def _blocks(piece: Piece) -> Iterator[Piece]:
    """Parts of a piece for one backward pass each: what it holds of the keys is then there only once."""
    queries, keys = piece
    count = queries.stop - queries.start
    if count == keys.stop - keys.start:
        yield piece  # causal from its first key on: one call that skips what is masked
        return
    for start in range(0, count, _BLOCK_QUERIES):
        stop = min(start + _BLOCK_QUERIES, count)
        yield Piece(
            slice(queries.start + start, queries.start + stop), slice(keys.start, keys.stop - count + stop)
        )


def _gradients(attend: Attend, inputs: tuple[Tensor, ...], upstream: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        return torch.autograd.grad(attend(*leaves), leaves, upstream)


def _heads_first(x_LBND: Tensor, tokens: slice, row: int) -> Tensor:
    """[1, N, Q, D] of one row's tokens."""
    return x_LBND[tokens, row].transpose(0, 1).unsqueeze(0)


def _tokens_first(x_1NQD: Tensor) -> Tensor:
    """The inverse of _heads_first: [Q, N, D]."""
    return x_1NQD.squeeze(0).transpose(0, 1)
