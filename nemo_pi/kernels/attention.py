"""Causal attention under autograd by one backend each, for model/causal.py to call.

Shape legend: B batch, N query heads, G key/value heads, Q queries, K keys (Q ≤ K), D head dim.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from nemo_pi.kernels import native_attention, row_attention

QKV = tuple[Tensor, Tensor, Tensor]
"""q [B, N, Q, D], k and v [B, G, K, D]."""
# Queries below which a call of the compiled kernel takes longer than the work.
_FEWEST_QUERIES = 16

# Not the public function: it returns no log-sum-exp, without which parts of the keys cannot be merged.
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class CausalAttention(Protocol):
    """One way to attend causally, without a sliding window."""

    def takes(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> bool:
        """Whether a call of this shape is one it does; PyTorch's attention does the others."""

    def attend(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, scale: float | None) -> Tensor:
        """Output [B, N, Q, D]: query i stands at the place of key K − Q + i and sees none behind it."""


class PartAttention(Protocol):
    """Attention to a part of the keys on a CPU, with what it takes to merge it with that to others."""

    def part(self, qkv: QKV, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
        """Output [B, N, Q, D] and log-sum-exp [B, N, Q], without a gradient."""

    def part_gradients(
        self, upstream: Tensor, qkv: QKV, out: Tensor, lse: Tensor, causal: bool, scale: float | None
    ) -> QKV:
        """This part's part of the gradients, given output and log-sum-exp of all keys."""


class Sdpa:
    """PyTorch's scaled_dot_product_attention."""

    def takes(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> bool:
        """As many queries as keys: its causal mask is aligned with the first of both."""
        return q_BNQD.size(2) == k_BGKD.size(2)

    def attend(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, scale: float | None) -> Tensor:
        """As CausalAttention."""
        grouped = q_BNQD.size(1) != k_BGKD.size(1)
        return scaled_dot_product_attention(
            q_BNQD, k_BGKD, v_BGKD, is_causal=True, scale=scale, enable_gqa=grouped
        )

    def part(self, qkv: QKV, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
        """As PartAttention."""
        out, lse = _flash(*qkv, 0.0, causal, scale=scale)
        return out, lse

    def part_gradients(
        self, upstream: Tensor, qkv: QKV, out: Tensor, lse: Tensor, causal: bool, scale: float | None
    ) -> QKV:
        """As PartAttention."""
        dq, dk, dv = _flash_backward(upstream, *qkv, out, lse, 0.0, causal, scale=scale)
        return dq, dk, dv


SDPA = Sdpa()


class Native:
    """The compiled kernel (csrc/attention.c); calls too small for it are PyTorch's."""

    def takes(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> bool:
        """As CausalAttention."""
        return q_BNQD.size(2) >= _FEWEST_QUERIES and native_attention.takes(q_BNQD, k_BGKD, v_BGKD)

    def attend(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, scale: float | None = None) -> Tensor:
        """As CausalAttention; the backward pass cannot be differentiated."""
        out_BNQD: Tensor = _Attend.apply(q_BNQD, k_BGKD, v_BGKD, scale)
        return out_BNQD

    def part(self, qkv: QKV, causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
        """As PartAttention."""
        if not self.takes(*qkv):
            return SDPA.part(qkv, causal, scale)
        return native_attention.attend(*qkv, causal=causal, scale=scale)

    def part_gradients(
        self, upstream: Tensor, qkv: QKV, out: Tensor, lse: Tensor, causal: bool, scale: float | None
    ) -> QKV:
        """As PartAttention."""
        if not self.takes(*qkv):
            return SDPA.part_gradients(upstream, qkv, out, lse, causal, scale)
        return native_attention.gradients(upstream, *qkv, out, lse, causal=causal, scale=scale)


NATIVE = Native()


class Rows:
    """Whole rows of scores by oneDNN; rows too short for that are the compiled kernel's where it runs."""

    def takes(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> bool:
        """As CausalAttention."""
        return self._are_long(q_BNQD, k_BGKD) or NATIVE.takes(q_BNQD, k_BGKD, v_BGKD)

    def attend(self, q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, scale: float | None) -> Tensor:
        """As CausalAttention; the backward pass cannot be differentiated."""
        if self._are_long(q_BNQD, k_BGKD):
            return row_attention.attend_by_rows(q_BNQD, k_BGKD, v_BGKD, scale)
        return NATIVE.attend(q_BNQD, k_BGKD, v_BGKD, scale)

    def _are_long(self, q_BNQD: Tensor, k_BGKD: Tensor) -> bool:
        return q_BNQD.size(2) == k_BGKD.size(2) and row_attention.pays_off(q_BNQD)


ROWS = Rows()


class _Attend(torch.autograd.Function):
    """Keeps its inputs, its output and a log-sum-exp for each query and head, as PyTorch's does."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        out, lse = native_attention.attend(q, k, v, causal=True, scale=scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *native_attention.gradients(grad, *ctx.saved_tensors, causal=True, scale=ctx.scale), None
