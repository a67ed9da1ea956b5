"""The training loss straight from hidden states: whole logits never exist, forward or backward.

The gradient is computed in the forward pass, while a chunk's softmax is there: the loss is a weighted sum,
so its gradient is known up to one factor, which the backward pass multiplies in. That saves a quarter of the
matrix products against computing the logits a second time (Liger-Kernel, arXiv 2410.10989, does the same).

Shape legend: N tokens, n tokens of one chunk, H hidden size, V rows of the vocabulary on this rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_pi.kernels.products import TORCH, TorchProducts
from nemo_pi.kernels.softmax import TORCH_SOFTMAX, TorchSoftmax
from nemo_pi.model.vocab_parallel import (
    ChunkBuffers,
    accumulator_dtype,
    across_ranks,
    local_softmax,
    logit_gradient,
)


def weighted_loss_sum(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    weight_N: Tensor,
    *,
    chunk_tokens: int,
    group: dist.ProcessGroup | None = None,
    bias_V: Tensor | None = None,
    products: TorchProducts = TORCH,
    softmax: TorchSoftmax = TORCH_SOFTMAX,
    real_rows: int | None = None,
) -> Tensor:
    """Σ weight · cross-entropy over tokens, a scalar in fp32 (fp64 for fp64 hidden states).

    Its backward pass may run once. The gradient of `hidden_NH` is this rank's part: the sum over ranks is
    the caller's (Megatron's mappings do it). Weight gradients add up in fp32 whatever the weights' dtype.

    Args:
        hidden_NH: final hidden states, the same on every rank of `group`.
        weight_VH: this rank's rows of the output projection, ranks in order.
        labels_N: int64 ids of the whole vocabulary, checked by the caller (see check_labels).
        weight_N: weight of each token; 0 leaves it out.
        chunk_tokens: tokens whose logits exist at once.
        group: ranks the vocabulary is split over; None where this rank holds it all.
        bias_V: what is added to the logits of this rank's rows.
        products: what multiplies.
        softmax: what makes logits into probabilities, in their place.
        real_rows: rows of `weight_VH` that are tokens, where padding lies behind them; it gets no gradient.
    """
    rest = (labels_N, weight_N, chunk_tokens, group, products, softmax, real_rows)
    if torch.is_grad_enabled() and (hidden_NH.requires_grad or weight_VH.requires_grad):
        total: Tensor = _WeightedLossSum.apply(hidden_NH, weight_VH, bias_V, *rest)
        return total
    with torch.no_grad():
        return _Tokens(hidden_NH, weight_VH, bias_V, *rest).loss_sum(_Gradients())


@dataclass(frozen=True)
class _Gradients:
    """Those that are wanted, filled while the loss is made."""

    hidden_NH: Tensor | None = None
    weight_VH: Tensor | None = None
    bias_V: Tensor | None = None

    def all(self) -> tuple[Tensor | None, ...]:
        """In the order of the arguments that they belong to."""
        return self.hidden_NH, self.weight_VH, self.bias_V


class _WeightedLossSum(torch.autograd.Function):
    """weighted_loss_sum with its gradients made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, *rest: Any) -> Tensor:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wide = accumulator_dtype(weight_VH)
        # Not save_for_backward: the backward pass scales these in place, which must not happen twice.
        ctx.gradients = _Gradients(
            hidden_NH=torch.empty_like(hidden_NH) if wants_hidden else None,
            # fp32 for 16-bit weights, too: every chunk adds to it, and small summands would be rounded away.
            weight_VH=torch.zeros_like(weight_VH, dtype=wide) if wants_weight else None,
            bias_V=weight_VH.new_zeros(weight_VH.size(0), dtype=wide) if wants_bias else None,
        )
        ctx.weight_dtype = weight_VH.dtype
        return _Tokens(hidden_NH, weight_VH, bias_V, *rest).loss_sum(ctx.gradients)

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the chunked loss has gradients for one backward pass only")
        hidden_NH, *weights = ctx.gradients.all()
        ctx.gradients = None
        if hidden_NH is not None:
            hidden_NH.mul_(grad_total)
        scaled = (None if one is None else one.mul_(grad_total).to(ctx.weight_dtype) for one in weights)
        return hidden_NH, *scaled, *[None] * 7


@dataclass(frozen=True)
class _Tokens:
    """The arguments of weighted_loss_sum."""

    hidden_NH: Tensor
    weight_VH: Tensor
    bias_V: Tensor | None
    labels_N: Tensor
    weight_N: Tensor
    chunk_tokens: int
    group: dist.ProcessGroup | None
    products: TorchProducts
    kernel: TorchSoftmax
    real_rows: int | None

    def loss_sum(self, gradients: _Gradients) -> Tensor:
        """The weighted sum; fills the gradients that are given."""
        grad_hidden_NH, grad_weight_VH, grad_bias_V = gradients.all()
        losses = []
        tokens = min(self.chunk_tokens, self.hidden_NH.size(0))
        buffers = ChunkBuffers(
            tokens,
            self.weight_VH,
            keep_logits=False,
            products=self.products,
            real_rows=self.real_rows,
        )
        for start in range(0, self.hidden_NH.size(0), self.chunk_tokens):
            chunk = slice(start, start + self.chunk_tokens)
            hidden_nH, labels_n = self.hidden_NH[chunk], self.labels_N[chunk]
            logits_nV = buffers.logits(hidden_nH, self.weight_VH, self.bias_V)
            softmax = local_softmax(logits_nV, buffers, labels_n, self.group, self.kernel)
            loss_n, shift_n = across_ranks(softmax, self.group)
            losses.append(loss_n)
            if all(gradient is None for gradient in gradients.all()):
                continue
            # Weighing tokens on the narrow side spares a pass over the chunk's logits.
            weight_n1 = self.weight_N[chunk, None].to(hidden_nH.dtype)
            wide_nV = logit_gradient(softmax, shift_n)
            if grad_bias_V is not None:
                grad_bias_V.addmv_(wide_nV.t(), self.weight_N[chunk].to(wide_nV.dtype))
            grad_nV = buffers.as_factor(wide_nV)
            if grad_hidden_NH is not None:
                product_nH = self.products.times_transposed(grad_nV, self.weight_VH.t())
                torch.mul(product_nH, weight_n1, out=grad_hidden_NH[chunk])
            if grad_weight_VH is not None:
                self.products.add_transposed_times(grad_weight_VH, grad_nV, hidden_nH * weight_n1)
        # torch.cat refuses an empty list; without any token the sum is 0.
        empty_0 = self.hidden_NH.new_zeros(0, dtype=accumulator_dtype(self.hidden_NH))
        loss_N = torch.cat([empty_0, *losses])
        return (loss_N * self.weight_N.to(loss_N.dtype)).sum()
