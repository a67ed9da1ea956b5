"""Causal attention on a CPU whose backward pass computes few scores that the mask then hides.

torch's flash attention for CPUs takes keys by 512 in its backward pass, all of them wherever a query sees
one: of 1,024 tokens 1.5 times the scores that are needed. Here blocks of tokens are taken by themselves;
then, level by level, the second half of every stretch with all of its first half, and stretches double. Each
part's probabilities follow from the log-sum-exp over all of them, as in flash attention's own backward pass
(arXiv 2205.14135, algorithm 4), so that gradients add up. All stretches of a level are one call.

Shape legend: B batch, N query heads, G key/value heads, S tokens, D head dim, C stretches of a level,
L tokens of a stretch or of one of its halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemo_pi.model.piece_attention import Result, attend_part, part_gradients

# Tokens of the smallest blocks. Half as many gain 3% more and need another level.
_BLOCK = 128
# Below it there is little to gain.
_SHORTEST = 512


def pays_off(q_BNSD: Tensor) -> bool:
    """Whether attend_in_halves is faster than torch's own for these queries.

    Not for 16-bit ones: their gradients would be rounded at every level.
    """
    on_cpu = q_BNSD.device.type == "cpu" and q_BNSD.dtype in (torch.float32, torch.float64)
    return on_cpu and q_BNSD.requires_grad and q_BNSD.size(2) >= _SHORTEST


def attend_in_halves(q_BNSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention of S queries to S keys, [B, N, S, D]; its backward pass cannot be differentiated.

    Args:
        q_BNSD, k_BGSD, v_BGSD: N is a multiple of G; all of one head dim, any strides with the channels next
            to each other.
        scale: of the scores; None for 1/√D.
    """
    out_BNSD: Tensor = _Halves.apply(q_BNSD, k_BGSD, v_BGSD, scale)
    return out_BNSD


class _Part(NamedTuple):
    """One call: the queries of C stretches that follow one another, and the keys they attend to."""

    start: int
    """First token."""
    number: int
    """C."""
    keys: int
    """Tokens of a stretch that are keys, its first ones."""
    queries: int
    """Tokens of a stretch that are queries: the same, causally, or those that follow the keys, to all."""
    causal: bool

    def of_keys(self, x_NSD: Tensor) -> Tensor:
        """View [C, G, L, D] of the keys (their values, their gradients)."""
        return self._stretches(x_NSD)[:, :, : self.keys]

    def of_queries(self, x_NSD: Tensor) -> Tensor:
        """View [C, N, L, …] of the queries (their outputs, log-sum-exps, gradients)."""
        return self._stretches(x_NSD)[:, :, -self.queries :]

    def _stretches(self, x: Tensor) -> Tensor:
        length = self.queries if self.causal else self.keys + self.queries
        own = x.narrow(1, self.start, self.number * length)
        return own.unflatten(1, (self.number, length)).transpose(0, 1)


def _parts(length: int) -> Iterator[_Part]:
    """All calls: first blocks by themselves, which hold every token, then halves."""
    blocks, rest = divmod(length, _BLOCK)
    if blocks:
        yield _Part(0, blocks, _BLOCK, _BLOCK, True)
    if rest:
        yield _Part(length - rest, 1, rest, rest, True)
    size = _BLOCK
    while size < length:
        stretches, rest = divmod(length, 2 * size)
        if stretches:
            yield _Part(0, stretches, size, size, False)
        if rest > size:
            yield _Part(length - rest, 1, size, rest - size, False)
        size *= 2


class _Halves(torch.autograd.Function):
    """Keeps what torch's does: its inputs, its output and a log-sum-exp for each query and head."""

    @staticmethod
    def forward(ctx: Any, q_BNSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, scale: float | None) -> Tensor:
        out_BNSD, lse_BNS = attend_part((q_BNSD, k_BGSD, v_BGSD), True, scale)
        ctx.save_for_backward(q_BNSD, k_BGSD, v_BGSD, out_BNSD, lse_BNS)
        ctx.scale = scale
        return out_BNSD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BNSD: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        sums = [like_tokens_first(x) for x in saved[:3]]
        for rows in zip(grad_BNSD, *saved, *sums, strict=True):
            for part in _parts(grad_BNSD.size(2)):
                _add_gradients(part, *rows, scale=ctx.scale)
        return *sums, None


def _add_gradients(
    part: _Part,
    upstream: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *sums: Tensor,
    scale: float | None,
) -> None:
    """Adds a part's gradients of one row's q, k and v to `sums`; causal parts, which come first, set them."""
    own = part.of_queries(q), part.of_keys(k), part.of_keys(v)
    result = Result(part.of_queries(out), part.of_queries(lse))
    gradients = part_gradients(part.of_queries(upstream), own, result, part.causal, scale)
    places = part.of_queries(sums[0]), part.of_keys(sums[1]), part.of_keys(sums[2])
    for place, gradient in zip(places, gradients, strict=True):
        place.copy_(gradient) if part.causal else place.add_(gradient)


def like_tokens_first(x_BNSD: Tensor) -> Tensor:
    """New [B, N, S, D] that lies in memory as [S, B, N, D], which is how the layers around want it."""
    batch, heads, length, width = x_BNSD.shape
    return x_BNSD.new_empty(length, batch, heads, width).permute(1, 2, 0, 3)
