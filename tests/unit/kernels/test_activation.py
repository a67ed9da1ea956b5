"""SwiGLU against autograd's own, bit for bit, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from nemo_pi.kernels.activation import activation_torch, swiglu_native
from nemo_pi.kernels.native import obstacle


def both_halves(dtype: torch.dtype) -> Tensor:
    """Gate and up [3, 2, 10], a strided view as a fused projection may leave it."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 12, generator=generator).mul(4).to(dtype)[..., 1:11].requires_grad_()


@pytest.mark.parametrize("swiglu", [activation_torch, swiglu_native])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equals_autograd(swiglu: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """The native one, too: these rows are none that the compiled kernel takes."""
    results = []
    for function in (swiglu, plain):
        both_2F = both_halves(dtype)
        product_F = function(both_2F)
        product_F.backward(torch.linspace(-2, 2, 30, dtype=dtype).view(3, 2, 5))
        results.append((product_F, both_2F.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None and theirs is not None
        assert ours.dtype == dtype and torch.equal(ours, theirs)


def plain(both_2F: Tensor) -> Tensor:
    """The formula."""
    gate_F, up_F = both_2F.chunk(2, dim=-1)
    return silu(gate_F) * up_F


def test_gradient_equals_finite_differences() -> None:
    assert torch.autograd.gradcheck(activation_torch, both_halves(torch.float64))


def test_keeps_its_input_only() -> None:
    kept: list[Any] = []
    both_2F = both_halves(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        activation_torch(both_2F)
    assert [x.data_ptr() for x in kept] == [both_2F.data_ptr()]


@pytest.mark.skipif(obstacle() is not None, reason=f"native: {obstacle()}")
def test_the_gradient_takes_the_place_of_what_a_layer_made() -> None:
    """Never of a leaf, which is its owner's; and autograd refuses a second use."""
    leaf_2F = torch.randn(4, 32, requires_grad=True)
    before_2F = leaf_2F.detach().clone()
    swiglu_native(leaf_2F).sum().backward()
    assert torch.equal(leaf_2F, before_2F)
    made_2F = leaf_2F * 1
    product_F = swiglu_native(made_2F)
    (grad_2F,) = torch.autograd.grad(product_F.sum(), made_2F, retain_graph=True)
    torch.testing.assert_close(grad_2F, leaf_2F.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product_F.sum().backward()
