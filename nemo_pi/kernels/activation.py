"""The MLP's activation: a function of the hidden layer, or a gated one (arXiv 2002.05202).

Gated ones keep nothing but their input for the backward pass. Megatron's unfused MLP adds an offset of 0 to
`up` and lets autograd keep silu(gate) and that copy: two more tensors of the hidden layer's width, in every
layer. Its fused one is compiled for GPUs.

Shape legend: F width of one half of the hidden layer on this rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

from nemo_pi.kernels import native_layers


@dataclass(frozen=True)
class Function:
    """A function of single numbers and its gradient."""

    forward: Callable[[Tensor], Tensor]
    """As autograd can follow it."""
    backward: Callable[[Tensor, Tensor, Tensor], Any]
    """Writes the gradient of the input to the third, given that of the result and the input."""


def _gelu(approximate: str) -> Function:
    def backward(grad_F: Tensor, x_F: Tensor, out_F: Tensor) -> None:
        torch.ops.aten.gelu_backward.grad_input(grad_F, x_F, approximate=approximate, grad_input=out_F)

    return Function(partial(gelu, approximate=approximate), backward)


def _silu_backward(grad_F: Tensor, x_F: Tensor, out_F: Tensor) -> None:
    torch.ops.aten.silu_backward.grad_input(grad_F, x_F, grad_input=out_F)


def _relu2_backward(grad_F: Tensor, x_F: Tensor, out_F: Tensor) -> None:
    torch.mul(grad_F, relu(x_F).mul_(2), out=out_F)


FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "silu": Function(silu, _silu_backward),
        "gelu": _gelu("none"),
        "gelu_tanh": _gelu("tanh"),
        # arXiv 2109.08668. Autograd keeps relu(x) alone, which both of its steps share.
        "relu2": Function(lambda x_F: relu(x_F).square(), _relu2_backward),
    }
)
"""By the names that shapes have for them."""


def activation_torch(x: Tensor, function: str = "silu", gated: bool = True) -> Tensor:
    """The activation [..., F] of a hidden layer, by PyTorch's operations.

    Args:
        x: the hidden layer [..., F] or, gated, gate and up side by side [..., 2F].
        function: a name in FUNCTIONS.
        gated: whether the function of the gate is multiplied with up; with silu that is SwiGLU.
    """
    if not gated:
        return FUNCTIONS[function].forward(x)
    product: Tensor = _Gated.apply(x, function, False)
    return product


def swiglu_native(both_2F: Tensor) -> Tensor:
    """silu(gate) · up [..., F] by the compiled kernel, where it takes such rows.

    Its backward pass writes the gradients over gate and up, unless they are a leaf: what made them must not
    need its own output for its backward pass. A linear layer does not; for anything that does, or for a
    second backward pass, autograd finds the changed version and raises.
    """
    product: Tensor = _Gated.apply(both_2F, "silu", True)
    return product


class _Gated(torch.autograd.Function):
    """One pass each way by the compiled kernel; else the operations that autograd would do."""

    @staticmethod
    def forward(ctx: Any, both_2F: Tensor, function: str, native: bool) -> Tensor:
        ctx.save_for_backward(both_2F)
        ctx.function, ctx.native = FUNCTIONS[function], native
        # What the layer before made is read by nobody else; a leaf is its owner's.
        ctx.may_overwrite = not both_2F.is_leaf
        if native and native_layers.takes(both_2F):
            return native_layers.swiglu(both_2F)
        gate_F, up_F = both_2F.chunk(2, dim=-1)
        return ctx.function.forward(gate_F).mul_(up_F)

    @staticmethod
    def backward(ctx: Any, grad_F: Tensor) -> tuple[Tensor, None, None]:
        (both_2F,) = ctx.saved_tensors
        if ctx.native and native_layers.takes(both_2F, grad_F):
            return native_layers.swiglu_gradient(grad_F, both_2F, in_place=ctx.may_overwrite), None, None
        gate_F, up_F = both_2F.chunk(2, dim=-1)
        grad_2F = torch.empty_like(both_2F)
        grad_gate_F, grad_up_F = grad_2F.chunk(2, dim=-1)
        # Computed again rather than kept: it would be one more tensor of this width in every layer.
        scratch_F = ctx.function.forward(gate_F)
        torch.mul(grad_F, scratch_F, out=grad_up_F)
        # It is used up by now, so its memory takes what comes back to it.
        torch.mul(grad_F, up_F, out=scratch_F)
        ctx.function.backward(scratch_F, gate_F, grad_gate_F)
        return grad_2F, None, None
