"""Attention of a chunk of queries to the keys before and within it, with its backward pass written out.

A rank that holds a part of a row attends in such spans. What keys and values its backward pass needs is
gathered again, so autograd cannot keep them; each way here says what it keeps instead.

Shape legend: N query heads, G key/value heads, Q queries, K keys (Q ≤ K), D head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nemo_pi.kernels.attention import QKV, SDPA, PartAttention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q [1, N, Q, D], k and v [1, G, K, D] to [1, N, Q, D]: the last Q of K tokens attend causally."""

# Queries of one recomputed backward pass where their keys begin before them.
_BLOCK_QUERIES = 512


class Result(NamedTuple):
    """What attention to some keys comes to."""

    out: Tensor
    """[1, N, Q, D]."""
    lse: Tensor | None
    """[1, N, Q], log of the sum of the exponentials of the scores; None where the backward pass attends
    again instead."""


class GradientPart(NamedTuple):
    """A part of a span's gradients; those of one query or key may come in several."""

    queries: slice
    keys: slice
    dq: Tensor
    dk: Tensor
    dv: Tensor


class SpanAttention(Protocol):
    """One way to attend."""

    def attend(self, qkv: QKV) -> Result:
        """The last Q of K tokens attend causally."""

    def gradients(self, upstream_1NQD: Tensor, qkv: QKV, result: Result) -> Iterator[GradientPart]:
        """All parts of the gradients of q, k and v, given that of the output."""


@dataclass(frozen=True)
class Recomputed:
    """Keeps nothing: the backward pass attends again, a few queries at a time."""

    function: Attend

    def attend(self, qkv: QKV) -> Result:
        """As SpanAttention."""
        return Result(self.function(*qkv), None)

    def gradients(self, upstream_1NQD: Tensor, qkv: QKV, result: Result) -> Iterator[GradientPart]:
        """As SpanAttention."""
        for queries, keys in _blocks(qkv[0].size(2), qkv[1].size(2)):
            with torch.enable_grad():
                leaves = tuple(x.detach().requires_grad_() for x in _sliced(qkv, queries, keys))
                out = self.function(*leaves)
                yield GradientPart(
                    queries, keys, *torch.autograd.grad(out, leaves, upstream_1NQD[:, :, queries])
                )


@dataclass(frozen=True)
class Merged:
    """Keeps the output and its log-sum-exp; on CPUs, without a sliding window.

    The keys before the queries, which all of them see, and the causal triangle at their end are attended to
    one after the other, so no mask is needed, and merged by their log-sum-exp. Given that of all keys,
    the backward pass computes the gradients of either part (arXiv 2205.14135, algorithm 4).
    """

    scale: float | None = None
    """Of the scores; None for 1/√D."""
    backend: PartAttention = SDPA
    """What attends to a part."""

    def attend(self, qkv: QKV) -> Result:
        """As SpanAttention."""
        own, *before = (
            Result(*self.backend.part(_sliced(qkv, queries, keys), causal, self.scale))
            for queries, keys, causal in _parts(qkv)
        )
        return merge(own, before[0]) if before else own

    def gradients(self, upstream_1NQD: Tensor, qkv: QKV, result: Result) -> Iterator[GradientPart]:
        """As SpanAttention."""
        for queries, keys, causal in _parts(qkv):
            part = _sliced(qkv, queries, keys)
            assert result.lse is not None
            whole = (result.out, result.lse)
            own = self.backend.part_gradients(upstream_1NQD, part, *whole, causal, self.scale)
            yield GradientPart(queries, keys, *own)


def merge(one: Result, other: Result) -> Result:
    """The result of both's keys together; computed in the precision of the log-sum-exp."""
    assert one.lse is not None and other.lse is not None
    # exp(b) / (exp(a) + exp(b)) of the two log-sum-exps a and b, without an exponential that could overflow.
    weight_1NQ1 = torch.sigmoid(other.lse - one.lse).unsqueeze(-1)
    out = torch.lerp(one.out.to(weight_1NQ1.dtype), other.out.to(weight_1NQ1.dtype), weight_1NQ1)
    return Result(out.to(one.out.dtype), torch.logaddexp(one.lse, other.lse))


def _parts(qkv: QKV) -> Iterator[tuple[slice, slice, bool]]:
    """Queries, keys, and whether they are causal: the triangle, then what is before it."""
    queries, keys = slice(0, qkv[0].size(2)), qkv[1].size(2)
    before = keys - queries.stop
    yield queries, slice(before, keys), True
    if before:
        yield queries, slice(0, before), False


def _blocks(queries: int, keys: int) -> Iterator[tuple[slice, slice]]:
    """Queries and their keys for one backward pass each, which then holds little of the keys' size."""
    # Causal from the first key on: one call that skips what is masked.
    size = queries if queries == keys else _BLOCK_QUERIES
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        yield slice(start, stop), slice(0, keys - queries + stop)


def _sliced(qkv: QKV, queries: slice, keys: slice) -> QKV:
    q, k, v = qkv
    return q[:, :, queries], k[:, :, keys], v[:, :, keys]
