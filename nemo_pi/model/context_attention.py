"""Causal attention over rows that are split over context-parallel ranks.

Keys and values of all ranks are gathered, a few heads at a time, and each rank's queries attend to as many
as they may see. What is kept for the backward pass is each rank's own shard: keys and values are gathered
again there, and their gradients are added up over the ranks and scattered. So what a layer keeps falls with
the number of ranks, and what passes through is bounded.

Order is that of the tokens in their row, never that of their positions: those may skip (PoSE) or start again
(documents).

Shape legend: B rows, S tokens of a whole row, L = S/cp tokens of this rank's shard, N query heads, G
key/value heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_pi.model.span_attention import GradientPart, Result, SpanAttention
from nemo_pi.parallel.context import ContextSplit

# Bytes of gathered keys and values at once; more heads of a short sequence, fewer of a long one.
_GATHERED_BYTES = 256 * 2**20


@dataclass(frozen=True)
class SplitRows:
    """One micro-batch's rows as the ranks of a group hold them, and how attention runs on them."""

    split: ContextSplit
    """Which tokens of each row every rank holds, and which keys they may see."""
    group: dist.ProcessGroup
    """The context-parallel ranks."""
    attention: SpanAttention
    """Attention of one span."""

    def gather(self, k_LBGD: Tensor, v_LBGD: Tensor) -> list[Tensor]:
        """Keys and values of whole rows, per row [2, 1, G, S, D], in the order of the tokens."""
        # Keys and values together: one collective instead of two.
        mine = torch.stack((k_LBGD, v_LBGD), dim=1)
        everyone = mine.new_empty(self.split.size * mine.size(0), *mine.shape[1:])
        dist.all_gather_into_tensor(everyone, mine, group=self.group)
        rows = zip(everyone.unbind(2), self.split.order_BS, strict=True)
        return [
            torch.empty_like(row).index_copy_(0, order, row).permute(1, 2, 0, 3).unsqueeze(1)
            for row, order in rows
        ]

    def scatter(self, gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Adds gradients of whole rows up over the ranks; returns this rank's shard of k's and v's."""
        rows = zip(gradients, self.split.order_BS, strict=True)
        everyone = torch.stack([row.squeeze(1).permute(2, 0, 1, 3)[order] for row, order in rows], dim=2)
        mine = everyone.new_empty(everyone.size(0) // self.split.size, *everyone.shape[1:])
        dist.reduce_scatter_tensor(mine, everyone, group=self.group)
        return mine[:, 0], mine[:, 1]


def heads_at_once(k_LBGD: Tensor, ranks: int) -> int:
    """Key/value heads whose gathered keys and values stay within the bound, those of all ranks counted."""
    per_head = 2 * k_LBGD.element_size() * k_LBGD[:, :, 0].numel() * ranks
    return min(k_LBGD.size(2), max(1, _GATHERED_BYTES // per_head))


def attend_split_rows(
    q_LBND: Tensor,
    k_LBGD: Tensor,
    v_LBGD: Tensor,
    rows: SplitRows,
    through: Callable[..., Tensor] = lambda attend, *qkv: attend(*qkv),
) -> Tensor:
    """Attention output [L, B, N, D] of this rank's queries; collective over the group, backward as well.

    Args:
        q_LBND, k_LBGD, v_LBGD: this rank's.
        rows: what all ranks hold.
        through: calls a function of some heads' query, key and value.
    """
    at_once = heads_at_once(k_LBGD, rows.split.size)
    queries_per_key = q_LBND.size(2) // k_LBGD.size(2)
    parts = zip(
        q_LBND.split(at_once * queries_per_key, dim=2),
        k_LBGD.split(at_once, dim=2),
        v_LBGD.split(at_once, dim=2),
        strict=True,
    )
    found = [through(lambda q, k, v: _SplitAttention.apply(q, k, v, rows), *part) for part in parts]
    return found[0] if len(found) == 1 else torch.cat(found, dim=2)


class _SplitAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_LBND: Tensor, k_LBGD: Tensor, v_LBGD: Tensor, rows: SplitRows) -> Tensor:
        out_LBND, log_sums = torch.empty_like(q_LBND), []
        for b, (k, v) in enumerate(rows.gather(k_LBGD, v_LBGD)):
            for queries, keys in rows.split.spans[b]:
                inputs = (_heads_first(q_LBND, queries, b), k[:, :, keys], v[:, :, keys])
                part, lse = rows.attention.attend(inputs)
                out_LBND[queries, b] = _tokens_first(part)
                log_sums.append(lse)
        kept = [out_LBND, *log_sums] if any(lse is not None for lse in log_sums) else []
        ctx.save_for_backward(q_LBND, k_LBGD, v_LBGD, *kept)
        ctx.rows = rows
        return out_LBND

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_LBND, k_LBGD, v_LBGD, *kept = ctx.saved_tensors
        rows: SplitRows = ctx.rows
        out_LBND = kept[0] if kept else q_LBND  # which nobody looks at then
        log_sums: Iterator[Tensor | None] = iter(kept[1:]) if kept else repeat(None)
        dq_LBND, gradients = torch.empty_like(q_LBND), []
        for b, whole in enumerate(rows.gather(k_LBGD, v_LBGD)):
            # fp32: several spans and ranks add up to one gradient.
            sums = torch.zeros_like(whole, dtype=torch.float32)
            for queries, keys in rows.split.spans[b]:
                k, v = whole[:, :, :, keys]
                inputs = (_heads_first(q_LBND, queries, b), k, v)
                result = Result(_heads_first(out_LBND, queries, b), next(log_sums))
                upper = _heads_first(upstream[0], queries, b)
                dq = _add_up(rows.attention.gradients(upper, inputs, result), inputs[0], sums[..., keys, :])
                dq_LBND[queries, b] = _tokens_first(dq)
            gradients.append(sums)
        dk_LBGD, dv_LBGD = rows.scatter(gradients)
        return dq_LBND, dk_LBGD.to(k_LBGD.dtype), dv_LBGD.to(v_LBGD.dtype), None


def _add_up(parts: Iterable[GradientPart], q: Tensor, sums: Tensor) -> Tensor:
    """The gradient of a span's queries in fp32; those of its keys and values are added to `sums`."""
    total = torch.zeros_like(q, dtype=torch.float32)
    for queries, keys, dq, dk, dv in parts:
        total[:, :, queries] += dq
        sums[0, :, :, keys] += dk
        sums[1, :, :, keys] += dv
    return total


def _heads_first(x_LBND: Tensor, tokens: slice, row: int) -> Tensor:
    """[1, N, Q, D] of one row's tokens."""
    return x_LBND[tokens, row].transpose(0, 1).unsqueeze(0)


def _tokens_first(x_1NQD: Tensor) -> Tensor:
    """The inverse of _heads_first: [Q, N, D]."""
    return x_1NQD.squeeze(0).transpose(0, 1)
