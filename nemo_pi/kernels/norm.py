"""Norms under autograd: RMSNorm by the compiled kernel or PyTorch's operations, LayerNorm by PyTorch's own.

Shape legend: N tokens, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemo_pi.kernels import native_layers


def norm_torch(x: Tensor, weight_H: Tensor, eps: float, bias_H: Tensor | None = None) -> Tensor:
    """An RMSNorm or, where there is a bias, a LayerNorm.

    PyTorch's LayerNorm keeps its input and two numbers per token on any device.
    """
    if bias_H is None:
        return rms_norm_torch(x, weight_H, eps)
    if x.device.type == "cpu" and x.dtype.itemsize < 4:
        normal: Tensor = _WideLayerNorm.apply(x, weight_H, bias_H, eps)
        return normal
    # A weight centred at zero arrives in fp32, which CUDA's kernel does not take beside a 16-bit x.
    return torch.nn.functional.layer_norm(x, weight_H.shape, weight_H.to(x.dtype), bias_H, eps)


def rms_norm_torch(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """x [..., H] over its root mean square, times the weight; in fp32, rounded to x's dtype last.

    On a GPU it is torch's own. On a CPU torch makes the norm of elementary operations and keeps two fp32
    tensors for its backward pass; there it is ours.
    """
    if x.device.type != "cpu":
        return torch.nn.functional.rms_norm(x, weight_H.shape, weight_H, eps)
    normal: Tensor = _RmsNorm.apply(x, weight_H, eps, False)
    return normal


def rms_norm_native(x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """The same by the compiled kernel, where it takes such rows."""
    if x.device.type != "cpu":
        return rms_norm_torch(x, weight_H, eps)
    normal: Tensor = _RmsNorm.apply(x, weight_H, eps, True)
    return normal


class _WideLayerNorm(torch.autograd.Function):
    """LayerNorm of 16-bit rows in fp32. PyTorch's own on a CPU keeps their means in 16 bits, which shows in
    the gradients of rows far from a mean of 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, bias_H: Tensor, eps: float) -> Tensor:
        weights = weight_H.float(), bias_H.float()
        normal, mean, inverse = torch.native_layer_norm(x.float(), weight_H.shape, *weights, eps)
        ctx.save_for_backward(x, weight_H, bias_H, mean, inverse)
        return normal.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_H, bias_H, mean, inverse = ctx.saved_tensors
        weights = weight_H.float(), bias_H.float()
        wide = torch.ops.aten.native_layer_norm_backward(
            grad.float(), x.float(), weight_H.shape, mean, inverse, *weights, [True] * 3
        )
        return *(one.to(like.dtype) for one, like in zip(wide, (x, weight_H, bias_H), strict=True)), None


class _RmsNorm(torch.autograd.Function):
    """y = w · x · r with r = (mean(x²) + ε)^(−½); keeps x and one number r per token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, eps: float, native: bool) -> Tensor:
        ctx.native = native
        if native and native_layers.takes(x, weight_H):
            normal, inverse = native_layers.rms_norm(x, weight_H, eps)
            ctx.save_for_backward(x, weight_H, inverse)
            return normal
        wide = torch.promote_types(x.dtype, torch.float32)
        # A norm rather than the mean of squares: no tensor of squares as large as x is made.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = norm.square_().div_(x.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_H, inverse)
        return (x * inverse).mul_(weight_H).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """dx = r·w·g − x·(Σ w·g·x)·r³/H and dw = Σ over tokens of g·x·r."""
        x, weight_H, inverse = ctx.saved_tensors
        if ctx.native and native_layers.takes(x, weight_H, grad):
            return *native_layers.rms_norm_gradients(grad, x, weight_H, inverse), None, None
        wide, hidden = inverse.dtype, x.size(-1)
        wide_grad, wide_x, wide_weight_H = grad.to(wide), x.to(wide), weight_H.to(wide)
        product_NH = (wide_grad * wide_x).reshape(-1, hidden)
        inverse_N = inverse.view(-1)
        grad_weight_H = product_NH.t().mv(inverse_N)
        # Sums over channels as a product with a vector, too: another tensor as large as x is spared.
        factor_N = product_NH.mv(wide_weight_H).mul_(inverse_N.pow(3)).div_(hidden)
        # Both sums over the product are made: its memory becomes the gradient of x.
        grad_x = torch.mul(wide_grad, wide_weight_H, out=product_NH.view_as(x)).mul_(inverse)
        grad_x.addcmul_(wide_x, factor_N.view_as(inverse), value=-1)
        return grad_x.to(x.dtype), grad_weight_H.to(weight_H.dtype), None, None
