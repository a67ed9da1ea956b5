"""Causal attention on CPUs by the compiled kernel (csrc/attention.c), for autograd.

Shape legend: B batch, N query heads, G key/value heads, Q queries, K keys (Q ≤ K), D head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemo_pi.kernels import native_attention
from nemo_pi.kernels.products import mkl_keeps_to_avx2

# Below it, a call takes longer than the work.
_FEWEST_QUERIES = 16


def kernel_pays_off(q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor) -> bool:
    """Whether the compiled kernel takes these heads and is faster than PyTorch's attention.

    It computes with AVX2. PyTorch's is made of MKL's products, which on Intel's processors may use AVX-512.
    """
    enough = q_BNQD.size(2) >= _FEWEST_QUERIES and mkl_keeps_to_avx2()
    return enough and native_attention.takes(q_BNQD, k_BGKD, v_BGKD)


def attend_by_kernel(q_BNQD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, scale: float | None = None) -> Tensor:
    """Attention [B, N, Q, D] of the last Q of K tokens; its backward pass cannot be differentiated."""
    out_BNQD: Tensor = _Attend.apply(q_BNQD, k_BGKD, v_BGKD, scale)
    return out_BNQD


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
