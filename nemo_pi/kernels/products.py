"""Matrix products of fp32 tensors on a CPU, by either of the two libraries that PyTorch carries.

PyTorch hands such products to MKL, which keeps to AVX2 on processors that are not Intel's. oneDNN, which
PyTorch brings along for 16-bit ones, uses AVX-512 on any processor that has it. Whether that is faster
differs from one to the next (docs/performance.md), so it is measured (kernels/race.py).

torch.backends.mkldnn.flags(enabled=False) turns oneDNN off.

Shape legend: M, N rows and columns of a product, K what is summed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Multiplications from which on a product is worth the 10 µs that oneDNN takes to start.
_SMALLEST = 2**20
# Numbers of a block of a product that is made elsewhere and copied to its place: 2 MiB.
_BLOCK = 2**19


class TorchProducts:
    """Products as PyTorch computes them, on any device and in any dtype."""

    changes_layers = False
    """Whether linear layers compute otherwise than Megatron's own."""

    def times_transposed(self, a_MK: Tensor, b_NK: Tensor) -> Tensor:
        """a·bᵀ [M, N], without a gradient; `a` may be [..., K] if it is contiguous."""
        return torch.nn.functional.linear(a_MK, b_NK)

    def transposed_times(self, a_KM: Tensor, b_KN: Tensor) -> Tensor:
        """aᵀ·b [M, N], without a gradient; its memory may be laid out as [N, M].

        oneDNN is up to twice as fast with the wider factor on the right.
        """
        if a_KM.size(1) <= b_KN.size(1):
            return self.times_transposed(a_KM.t(), b_KN.t())
        return self.times_transposed(b_KN.t(), a_KM.t()).t()

    def times_transposed_into(self, out_MN: Tensor, a_MK: Tensor, b_NK: Tensor) -> Tensor:
        """a·bᵀ written into `out_MN`, with little memory beside it."""
        return torch.mm(a_MK, b_NK.t(), out=out_MN)

    def add_transposed_times(self, total_MN: Tensor, a_KM: Tensor, b_KN: Tensor) -> None:
        """Adds aᵀ·b to `total_MN`, which may be wider than the factors, with little memory beside it."""
        if total_MN.dtype == a_KM.dtype:
            total_MN.addmm_(a_KM.t(), b_KN)
        else:
            # addmm_ takes one dtype for all three.
            total_MN += a_KM.t() @ b_KN

    def linear(self, x: Tensor, weight_NK: Tensor) -> Tensor:
        """x·weightᵀ [..., N] of x [..., K]; its backward pass cannot be differentiated."""
        product: Tensor = _Linear.apply(x, weight_NK, self)
        return product


class OneDnnProducts(TorchProducts):
    """oneDNN's; what it does not take, or is too small to be worth a call, is computed as PyTorch does."""

    changes_layers = True

    def takes(self, x: Tensor) -> bool:
        """Whether products of tensors like this one go to oneDNN."""
        return x.dtype is torch.float32 and x.device.type == "cpu" and bool(torch.backends.mkldnn.enabled)

    def times_transposed(self, a_MK: Tensor, b_NK: Tensor) -> Tensor:
        """As TorchProducts."""
        worthwhile = a_MK.numel() * b_NK.size(0) >= _SMALLEST
        if not worthwhile or not self.takes(a_MK):
            return super().times_transposed(a_MK, b_NK)
        # A stray stride would cost a reference implementation a thousand times as slow.
        left = a_MK if a_MK.is_contiguous() or _has_rows(a_MK) else a_MK.contiguous()
        right = b_NK.t().contiguous().t() if b_NK.stride(0) == 1 else b_NK.contiguous()
        # The operator that torch.compile puts in place of linear layers on CPUs: the public ones give fp32 to
        # MKL.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        return product

    def times_transposed_into(self, out_MN: Tensor, a_MK: Tensor, b_NK: Tensor) -> Tensor:
        """As TorchProducts."""
        if not self.takes(a_MK):
            return super().times_transposed_into(out_MN, a_MK, b_NK)
        # oneDNN's operator cannot write into a given tensor: blocks small enough for the cache are copied
        # there.
        for columns in _blocks(b_NK.size(0), a_MK.size(0)):
            out_MN[:, columns] = self.times_transposed(a_MK, b_NK[columns])
        return out_MN

    def add_transposed_times(self, total_MN: Tensor, a_KM: Tensor, b_KN: Tensor) -> None:
        """As TorchProducts."""
        if not self.takes(a_KM):
            return super().add_transposed_times(total_MN, a_KM, b_KN)
        for rows in _blocks(a_KM.size(1), b_KN.size(1)):
            total_MN[rows] += self.transposed_times(a_KM[:, rows], b_KN)


TORCH, ONEDNN = TorchProducts(), OneDnnProducts()


def onednn_obstacle() -> str | None:
    """Why oneDNN cannot compute products in this process, or None if it can."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this PyTorch was built without oneDNN"
    if not torch.backends.mkldnn.enabled:
        return "torch.backends.mkldnn is switched off"
    return None


class _Linear(torch.autograd.Function):
    """Keeps its inputs, as torch's does; of a frozen weight's layer the weight alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor, products: TorchProducts) -> Tensor:
        # A frozen weight's gradient is never asked for.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight_NK)
        ctx.products = products
        return products.times_transposed(x.contiguous(), weight_NK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight_NK = ctx.saved_tensors
        products, grad = ctx.products, grad.contiguous()
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad_x = products.times_transposed(grad, weight_NK.t()) if wants_x else None
        if not wants_weight:
            return grad_x, None, None
        rows = grad.flatten(0, -2), x.flatten(0, -2)
        return grad_x, products.transposed_times(*rows), None


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Slices of a dimension, so that a block of a matrix that is `width` wide stays in the cache."""
    size = max(_BLOCK // max(width, 1), 1)
    for start in range(0, length, size):
        yield slice(start, start + size)


def _has_rows(a: Tensor) -> bool:
    """Whether a matrix lies in memory as rows, or columns, that do not overlap."""
    if a.dim() != 2:
        return False
    (rows, columns), (down, right) = a.shape, a.stride()
    return (right == 1 and down >= columns) or (down == 1 and right >= rows)
