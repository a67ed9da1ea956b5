"""SwiGLU (arXiv 2002.05202) that keeps nothing but its input for the backward pass.

Megatron's unfused MLP adds an offset of 0 to `up` and lets autograd keep silu(gate) and that copy: two more
tensors of the hidden layer's width, in every layer. Its fused one is compiled for GPUs.

Shape legend: F width of one half of the hidden layer on this rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from nemo_pi.kernels import native_layers


def swiglu_torch(both_2F: Tensor) -> Tensor:
    """silu(gate) · up [..., F] of gate and up side by side [..., 2F], by PyTorch's operations."""
    product: Tensor = _Swiglu.apply(both_2F, False)
    return product


def swiglu_native(both_2F: Tensor) -> Tensor:
    """The same by the compiled kernel, where it takes such rows.

    Its backward pass writes the gradients over gate and up, unless they are a leaf: what made them must not
    need its own output for its backward pass. A linear layer does not; for anything that does, or for a
    second backward pass, autograd finds the changed version and raises.
    """
    product: Tensor = _Swiglu.apply(both_2F, True)
    return product


class _Swiglu(torch.autograd.Function):
    """One pass each way by the compiled kernel; else the operations that autograd would do."""

    @staticmethod
    def forward(ctx: Any, both_2F: Tensor, native: bool) -> Tensor:
        ctx.save_for_backward(both_2F)
        ctx.native = native
        # What the layer before made is read by nobody else; a leaf is its owner's.
        ctx.may_overwrite = not both_2F.is_leaf
        if native and native_layers.takes(both_2F):
            return native_layers.swiglu(both_2F)
        gate_F, up_F = both_2F.chunk(2, dim=-1)
        return silu(gate_F).mul_(up_F)

    @staticmethod
    def backward(ctx: Any, grad_F: Tensor) -> tuple[Tensor, None]:
        (both_2F,) = ctx.saved_tensors
        if ctx.native and native_layers.takes(both_2F, grad_F):
            return native_layers.swiglu_gradient(grad_F, both_2F, in_place=ctx.may_overwrite), None
        gate_F, up_F = both_2F.chunk(2, dim=-1)
        grad_2F = torch.empty_like(both_2F)
        grad_gate_F, grad_up_F = grad_2F.chunk(2, dim=-1)
        # Computed again rather than kept: it would be one more tensor of this width in every layer.
        scratch_F = silu(gate_F)
        torch.mul(grad_F, scratch_F, out=grad_up_F)
        # silu(gate) is used up by now, so its memory takes what comes back to it.
        torch.mul(grad_F, up_F, out=scratch_F)
        torch.ops.aten.silu_backward.grad_input(scratch_F, gate_F, grad_input=grad_gate_F)
        return grad_2F, None
