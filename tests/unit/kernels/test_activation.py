"""Activations against autograd's own, bit for bit, and what they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.activations import ACT2FN

from nemo_pi.kernels.activation import FUNCTIONS, activation_torch, swiglu_native
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


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_is_that_of_transformers(name: str, gated: bool) -> None:
    """Result and gradient in float64, of numbers on both sides of 0, beside transformers' own classes."""
    theirs = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu2": "relu2"}[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 8, generator=generator, dtype=torch.float64).mul(3).requires_grad_()
    results = []
    for function in (lambda x: activation_torch(x, name, gated), written_out(ACT2FN[theirs], gated)):
        y = function(x)
        y.backward(torch.linspace(-2, 2, y.numel(), dtype=y.dtype).view_as(y))
        results.append((y.detach(), x.grad))
        x.grad = None
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def written_out(function: Callable[[Tensor], Tensor], gated: bool) -> Callable[[Tensor], Tensor]:
    """The function, or its product of both halves."""
    if not gated:
        return function
    return lambda both_2F: function(both_2F.chunk(2, dim=-1)[0]) * both_2F.chunk(2, dim=-1)[1]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_one_tensor_is_kept_of_any_function(name: str) -> None:
    kept: list[Any] = []
    x_F = torch.randn(3, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        activation_torch(x_F, name, gated=False)
    assert len({x.data_ptr() for x in kept}) == 1
