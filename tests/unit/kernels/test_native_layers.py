"""The compiled RMSNorm, SwiGLU and softmax against their formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from nemo_pi.kernels import native_layers
from nemo_pi.kernels.native import obstacle

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=f"native: {obstacle()}")

SHAPES = [(1, 16), (3, 2, 48), (2, 1000, 256), (7, 5, 1, 688)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rms_norm(shape: tuple[int, ...], scale: float) -> None:
    x, weight, grad = scale * torch.randn(shape), 1 + torch.rand(shape[-1]), torch.randn(shape)
    given, inverse = native_layers.rms_norm(x, weight, 1e-5)
    gradients = native_layers.rms_norm_gradients(grad, x, weight, inverse)
    exact_x, exact_weight = (t.double().requires_grad_() for t in (x, weight))
    exact = exact_x / (exact_x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * exact_weight
    expected = torch.autograd.grad(exact, (exact_x, exact_weight), grad.double())
    assert inverse.shape == (*shape[:-1], 1)
    for ours, theirs in zip((given, *gradients), (exact, *expected), strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double() - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_swiglu(shape: tuple[int, ...]) -> None:
    both, grad = 4 * torch.randn(*shape[:-1], 2 * shape[-1]), torch.randn(shape)
    exact = both.double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    (expected,) = torch.autograd.grad(silu(gate) * up, exact, grad.double())
    assert_close(native_layers.swiglu(both), silu(gate) * up)
    assert_close(native_layers.swiglu_gradient(grad, both), expected)
    version = both._version
    written_over = native_layers.swiglu_gradient(grad, both, in_place=True)
    assert_close(written_over, expected)
    assert written_over.data_ptr() == both.data_ptr() and both._version > version


@pytest.mark.parametrize("scale", [0.1, 5.0, 60.0])
@pytest.mark.parametrize("shape", [(1, 16), (5, 48), (300, 2000), (3, 32768)], ids=str)
def test_softmax(shape: tuple[int, int], scale: float) -> None:
    """Where it stands: a part of wider rows, whose other columns stay."""
    wide = scale * torch.randn(shape[0], shape[1] + 24)
    logits, rest = wide[:, 8:-16], wide[:, -16:].clone()
    label = torch.randint(0, shape[1], (shape[0],))
    exact = logits.double()
    logprob, logsumexp = native_layers.softmax_(logits, label)
    assert_close(logits, exact.softmax(-1))
    assert torch.equal(wide[:, -16:], rest)
    expected = exact.log_softmax(-1).gather(1, label[:, None])[:, 0]
    for ours, theirs in ((logprob, expected), (logsumexp, exact.logsumexp(-1))):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=2e-6)


def test_softmax_of_what_has_no_number() -> None:
    """As PyTorch: NaN and +inf leave none in their row, -inf is a probability of 0."""
    logits = torch.randn(4, 32)
    logits[0, 31], logits[1, 7], logits[2, 0] = torch.nan, torch.inf, -torch.inf
    expected, label = logits.softmax(-1), torch.zeros(4, dtype=torch.int64)
    logprob, logsumexp = native_layers.softmax_(logits, label)
    torch.testing.assert_close(logits, expected, equal_nan=True)
    assert logprob.isnan().tolist() == [True, True, False, False] and logprob[2] == -torch.inf
    assert logsumexp.isfinite().tolist()[2:] == [True, True]


def test_swiglu_of_large_and_small_gates() -> None:
    """Neither overflow nor a lost sign: silu is 0 far below and its argument far above."""
    gate = torch.tensor(
        [-1e30, -1000.0, -90.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 90.0, 1000.0, 1e30, 1, 2, 3, 4, 5]
    )
    both, ones = torch.cat([gate, torch.ones(16)])[None], torch.ones(1, 16)
    assert_close(native_layers.swiglu(both)[0], silu(gate.double()))
    exact = gate.double().requires_grad_()
    (slope,) = torch.autograd.grad(silu(exact).sum(), exact)
    assert_close(native_layers.swiglu_gradient(ones, both)[0, :16], slope)


def test_what_is_no_number_stays_none() -> None:
    both = torch.ones(3, 32)
    both[1, 3] = torch.nan
    assert native_layers.swiglu(both).isnan().nonzero().tolist() == [[1, 3]]
    gradient = native_layers.swiglu_gradient(torch.ones(3, 16), both)
    assert gradient.isnan().nonzero().tolist() == [[1, 3], [1, 19]]
    normal, inverse = native_layers.rms_norm(both, torch.ones(32), 1e-5)
    assert normal[1].isnan().all() and not normal[[0, 2]].isnan().any()
    grad_x, _ = native_layers.rms_norm_gradients(torch.ones(3, 32), both, torch.ones(32), inverse)
    assert grad_x[1].isnan().all() and not grad_x[[0, 2]].isnan().any()


def test_rows_that_lie_apart() -> None:
    x, weight = torch.randn(6, 64)[:, 16:48], torch.rand(32)
    for one, other in zip(
        native_layers.rms_norm(x, weight, 1e-5), native_layers.rms_norm(x.clone(), weight, 1e-5), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(native_layers.swiglu(x), native_layers.swiglu(x.clone()))


def test_what_they_take() -> None:
    x = torch.ones(3, 32)
    assert native_layers.takes(x, x)
    for odd in (x.double(), x[:, :24], x[:0]):
        assert not native_layers.takes(odd)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-6, atol=1e-6)
