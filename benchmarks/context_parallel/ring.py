"""Ring attention (arXiv 2310.01889) over zig-zag shards: blocks of keys and values go from rank to rank.

While a rank attends to one block, it sends that block on and receives the next. In the backward pass the
blocks go round again, and behind them the sums of their gradients, which end at the block's owner.

Rank r of R holds chunks r and 2R − 1 − r of a row. Its own block is attended to causally; of an earlier
rank's block all its queries see the first half, and a later rank's block is seen whole by its last half: the
work of every step is the same on every rank (arXiv 2311.09431).

Shape legend: B rows, L tokens of a rank's shard, N query heads, G key/value heads, D head dim; all fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_pi.kernels import native
from nemo_pi.kernels.attention import NATIVE, SDPA
from nemo_pi.model.span_attention import Result, merge

ATTENTION = NATIVE if native.obstacle() is None else SDPA
"""What attends to a block, for all ways that are compared."""
_KEYS, _GRADIENTS = 0, 1  # tags: both are on their way between the same two ranks


@dataclass(frozen=True)
class Step:
    """What a rank does with one block."""

    queries: slice
    """Of its own shard."""
    keys: slice
    """Of the block."""
    causal: bool
    """Only its own block holds keys behind its queries."""


def ring_step(number: int, rank: int, size: int, length: int) -> Step:
    """Step `number` of rank `rank` of `size`: the block of rank (rank − number) mod size, `length` tokens."""
    owner = (rank - number) % size
    everything, half = slice(0, length), length // 2
    if owner == rank:
        return Step(everything, everything, causal=True)
    if owner < rank:
        return Step(everything, slice(0, half), causal=False)
    return Step(slice(half, length), everything, causal=False)


@dataclass(frozen=True)
class Ring:
    """The ranks of a group, each sending to the next."""

    group: dist.ProcessGroup

    def send_on(self, block: Tensor, tag: int) -> tuple[Tensor, list[Any]]:
        """Starts to send `block`; the one that arrives, and what is to be waited for before it is read."""
        rank, size = self.group.rank(), self.group.size()
        arriving = torch.empty_like(block)
        sending = dist.isend(block, group=self.group, group_dst=(rank + 1) % size, tag=tag)
        receiving = dist.irecv(arriving, group=self.group, group_src=(rank - 1) % size, tag=tag)
        return arriving, [sending, receiving]

    def steps(self, block: Tensor) -> Iterator[tuple[Step, Tensor]]:
        """Every rank's block in turn, beginning with one's own; the next is under way meanwhile."""
        rank, size = self.group.rank(), self.group.size()
        for number in range(size):
            last = number == size - 1
            following, under_way = (block, []) if last else self.send_on(block, _KEYS)
            yield ring_step(number, rank, size, block.size(-2)), block
            _wait(under_way)
            block = following


def attend_around(q_LBND: Tensor, k_LBGD: Tensor, v_LBGD: Tensor, ring: Ring) -> Tensor:
    """Attention output [L, B, N, D] of this rank's queries; collective over the group, backward as well."""
    out: Tensor = _RingAttention.apply(q_LBND, k_LBGD, v_LBGD, ring)
    return out


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_LBND: Tensor, k_LBGD: Tensor, v_LBGD: Tensor, ring: Ring) -> Tensor:
        q_BNLD = heads_first(q_LBND)
        out_BNLD = torch.zeros_like(q_BNLD)
        lse_BNL = torch.full(q_BNLD.shape[:3], -torch.inf)
        for step, (k, v) in ring.steps(_block(k_LBGD, v_LBGD)):
            seen = Result(out_BNLD[:, :, step.queries], lse_BNL[:, :, step.queries])
            qkv = (q_BNLD[:, :, step.queries], k[:, :, step.keys], v[:, :, step.keys])
            part = Result(*ATTENTION.part(qkv, step.causal, None))
            whole = part if step.causal else merge(seen, part)
            assert whole.lse is not None
            out_BNLD[:, :, step.queries] = whole.out
            lse_BNL[:, :, step.queries] = whole.lse
        ctx.save_for_backward(q_LBND, k_LBGD, v_LBGD, out_BNLD, lse_BNL)
        ctx.ring = ring
        return tokens_first(out_BNLD)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_LBND, k_LBGD, v_LBGD, out_BNLD, lse_BNL = ctx.saved_tensors
        ring: Ring = ctx.ring
        q_BNLD, above_BNLD = heads_first(q_LBND), heads_first(upstream[0])
        dq_BNLD = torch.zeros_like(q_BNLD, dtype=torch.float32)
        mine = others = torch.zeros(())
        under_way: list[Any] = []
        for step, block in ring.steps(_block(k_LBGD, v_LBGD)):
            result = (out_BNLD[:, :, step.queries], lse_BNL[:, :, step.queries])
            k, v = block[:, :, :, step.keys]
            qkv = (q_BNLD[:, :, step.queries], k, v)
            dq, dk, dv = ATTENTION.part_gradients(
                above_BNLD[:, :, step.queries], qkv, *result, step.causal, None
            )
            dq_BNLD[:, :, step.queries] += dq
            summed = torch.zeros_like(block, dtype=torch.float32)
            summed[:, :, :, step.keys] = torch.stack((dk, dv))
            if step.causal:
                mine = summed
                continue
            # The block came from the rank before, and so does what it has gathered of gradients there.
            _wait(under_way)
            others, under_way = ring.send_on(summed + others, _GRADIENTS)
        _wait(under_way)
        dk, dv = mine + others
        return tokens_first(dq_BNLD), tokens_first(dk), tokens_first(dv), None


def _wait(under_way: list[Any]) -> None:
    for one in under_way:
        one.wait()


def _block(k_LBGD: Tensor, v_LBGD: Tensor) -> Tensor:
    """[2, B, G, L, D], as it is sent."""
    return torch.stack((heads_first(k_LBGD), heads_first(v_LBGD)))


def heads_first(x_LBND: Tensor) -> Tensor:
    """[B, N, L, D], a view."""
    return x_LBND.permute(1, 2, 0, 3)


def tokens_first(x_BNLD: Tensor) -> Tensor:
    """The inverse, a view."""
    return x_BNLD.permute(2, 0, 1, 3)
