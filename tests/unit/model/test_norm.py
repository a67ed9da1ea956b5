"""Norms against their formulas in float64, and the mark Megatron looks for."""

from __future__ import annotations

import pytest
import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_pi.kernels.norm import norm_torch, rms_norm_native, rms_norm_torch
from nemo_pi.model.norm import LayerNorm, NormFunction, RMSNorm


def config_of(**changes: object) -> TransformerConfig:
    return TransformerConfig(num_layers=1, hidden_size=32, num_attention_heads=2, **changes)  # type: ignore[arg-type]


BACKENDS = pytest.mark.parametrize("backend", [rms_norm_torch, rms_norm_native])


@BACKENDS
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_equals_the_formula(eps: float, backend: NormFunction) -> None:
    """x / sqrt(mean(x²) + ε) · g (arXiv 1910.07467, equation 4)."""
    norm = RMSNorm(config_of(), 32, eps=eps, backend=backend)
    x_SBH = torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x, weight = x_SBH.double(), norm.weight.double()
    expected = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight
    torch.testing.assert_close(norm(x_SBH).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("split", [False, True])
def test_marks_its_weight_for_sequence_parallelism(split: bool) -> None:
    config = config_of()
    config.sequence_parallel = split  # its own check would ask for tensor ranks
    assert RMSNorm(config, 32).weight.sequence_parallel is split  # type: ignore[attr-defined]


def test_takes_the_models_dtype() -> None:
    assert RMSNorm(config_of(params_dtype=torch.bfloat16, bf16=True), 32).weight.dtype == torch.bfloat16


@BACKENDS
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_equal_the_formulas(
    dtype: torch.dtype, within: float, scale: float, backend: NormFunction
) -> None:
    """Of inputs far below, near and far above the root of epsilon."""
    norm = RMSNorm(config_of(params_dtype=dtype, bf16=dtype is torch.bfloat16), 32, backend=backend)
    generator = torch.Generator().manual_seed(0)
    x_SBH = (scale * torch.randn(50, 3, 32, generator=generator)).to(dtype).requires_grad_()
    grad_SBH = torch.randn(50, 3, 32, generator=generator).to(dtype)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5, generator=generator)
    y_SBH = norm(x_SBH)
    y_SBH.backward(grad_SBH)
    assert y_SBH.dtype == dtype
    x, weight = (value.detach().double().requires_grad_() for value in (x_SBH, norm.weight))
    y = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    y.backward(grad_SBH.double())
    for ours, theirs in ((y_SBH, y), (x_SBH.grad, x.grad), (norm.weight.grad, weight.grad)):
        assert ours is not None and theirs is not None
        assert (ours.double() - theirs).norm() < within * theirs.norm()


@BACKENDS
def test_keeps_its_input_and_one_number_per_token(backend: NormFunction) -> None:
    kept: list[torch.Tensor] = []
    norm, x_SBH = RMSNorm(config_of(), 32, backend=backend), torch.randn(5, 2, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        norm(x_SBH)
    assert {x.data_ptr() for x in kept if x.numel() > 32} == {x_SBH.data_ptr()}
    assert sum(x.numel() for x in kept) == 5 * 2 * 32 + 32 + 5 * 2


@BACKENDS
def test_an_expanded_gradient_is_as_good_as_its_copy(backend: NormFunction) -> None:
    norm, x_SBH = RMSNorm(config_of(), 32, backend=backend), torch.randn(5, 2, 32, requires_grad=True)
    grad_SBH = torch.randn(2, 5, 1).transpose(0, 1).expand(5, 2, 32)
    expanded = torch.autograd.grad(norm(x_SBH), x_SBH, grad_SBH)[0]
    assert torch.equal(expanded, torch.autograd.grad(norm(x_SBH), x_SBH, grad_SBH.clone())[0])


def formula(norm: RMSNorm | LayerNorm, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    """In the dtype of its inputs; LayerNorm's is that of arXiv 1607.06450."""
    weight, *bias = parameters
    weight = weight + 1 if norm.zero_centered else weight
    if isinstance(norm, RMSNorm):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias[0]


KINDS = [
    pytest.param(RMSNorm, rms_norm_torch, True, id="rmsnorm1p"),
    pytest.param(RMSNorm, rms_norm_native, True, id="rmsnorm1p, native"),
    pytest.param(LayerNorm, norm_torch, False, id="layernorm"),
    pytest.param(LayerNorm, norm_torch, True, id="layernorm1p"),
]


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("kind", "backend", "zero_centered"), KINDS)
def test_other_kinds_equal_their_formulas(
    kind: type, backend: NormFunction, zero_centered: bool, dtype: torch.dtype, within: float
) -> None:
    """Result and gradients of input, weight and bias, of rows far from a mean of 0."""
    changes = {"layernorm_zero_centered_gamma": zero_centered, "params_dtype": dtype}
    norm = kind(config_of(bf16=dtype is torch.bfloat16, **changes), 32, backend=backend)
    assert norm.weight.eq(0.0 if zero_centered else 1.0).all()
    generator = torch.Generator().manual_seed(0)
    x_SBH = (3 + torch.randn(50, 3, 32, generator=generator)).to(dtype).requires_grad_()
    grad_SBH = torch.randn(50, 3, 32, generator=generator).to(dtype)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5, generator=generator)
    y_SBH = norm(x_SBH)
    y_SBH.backward(grad_SBH)
    ours = [y_SBH, x_SBH.grad, *(parameter.grad for parameter in norm.parameters())]
    assert {one.dtype for one in ours} == {dtype}
    exact = [value.detach().double().requires_grad_() for value in (x_SBH, *norm.parameters())]
    y = formula(norm, *exact)
    y.backward(grad_SBH.double())
    for one, theirs in zip(ours, [y, *(value.grad for value in exact)], strict=True):
        assert (one.double() - theirs).norm() < within * theirs.norm()


@pytest.mark.parametrize("split", [False, True])
def test_a_layer_norm_marks_weight_and_bias(split: bool) -> None:
    config = config_of()
    config.sequence_parallel = split  # its own check would ask for tensor ranks
    norm = LayerNorm(config, 32)
    assert [parameter.sequence_parallel for parameter in norm.parameters()] == [split, split]  # type: ignore[attr-defined]


def test_a_layer_norm_keeps_its_input_and_two_numbers_per_token() -> None:
    kept: list[torch.Tensor] = []
    norm, x_SBH = LayerNorm(config_of(), 32), torch.randn(5, 2, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        norm(x_SBH)
    assert {x.data_ptr() for x in kept if x.numel() > 32} == {x_SBH.data_ptr()}
    assert sum(x.numel() for x in kept) == 5 * 2 * 32 + 2 * 32 + 2 * 5 * 2
