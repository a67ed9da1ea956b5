"""Products against float64, whichever library computes them.

Shape legend: M, N rows and columns of a product, K what is summed over.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels import products
from nemo_pi.kernels.products import ONEDNN, TORCH, TorchProducts

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch was built without oneDNN"
)


@pytest.fixture(params=[pytest.param(True, marks=needs_onednn), False], ids=["onednn", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TorchProducts:
    """Both libraries, down to the smallest product and in several blocks."""
    monkeypatch.setattr(products, "_SMALLEST", 1)
    monkeypatch.setattr(products, "_BLOCK", 64)
    return ONEDNN if request.param else TORCH


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def layouts(rows: int, columns: int) -> list[Tensor]:
    """One matrix by rows, by columns, cut from a wider one, every other column, and one row repeated."""
    whole = draw(rows, columns)
    by_columns = whole.t().contiguous().t()
    cut = torch.cat([whole, whole], dim=1)[:, :columns]
    spaced = torch.stack([whole, whole], dim=2)[:, :, 0]
    return [whole, by_columns, cut, spaced, whole[:1].expand(rows, columns)]


def check(product: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (7, 9, 5), (33, 17, 64), (0, 3, 4), (5, 1, 30)])
def test_every_layout(m: int, n: int, k: int, library: TorchProducts) -> None:
    for a in layouts(m, k):
        for b in layouts(n, k):
            expected = a.double() @ b.double().t()
            check(library.times_transposed(a, b), expected)
            check(library.transposed_times(a.t(), b.t()), expected)
            check(library.times_transposed_into(torch.empty(m, n), a, b), expected)
            total = draw(m, n)
            before = total.double()
            library.add_transposed_times(total, a.t(), b.t())
            check(total, before + expected)


def test_adds_16_bit_factors_in_fp32(library: TorchProducts) -> None:
    a, b, total = draw(5, 3).bfloat16(), draw(5, 4).bfloat16(), torch.zeros(3, 4)
    library.add_transposed_times(total, a, b)
    torch.testing.assert_close(total, (a.double().t() @ b.double()).float(), rtol=2**-7, atol=2**-7)


def test_linear_and_its_gradients(library: TorchProducts) -> None:
    x, weight = draw(4, 3, 8).requires_grad_(), draw(6, 8).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    ours, theirs = library.linear(x, weight), torch.nn.functional.linear(*exact)
    check(ours, theirs)
    upstream = draw(3, 4, 6).transpose(0, 1)
    expected = torch.autograd.grad(theirs, exact, upstream.double())
    for gradient, other in zip(torch.autograd.grad(ours, (x, weight), upstream), expected, strict=True):
        check(gradient, other)


def test_frozen_factors_get_no_gradient(library: TorchProducts) -> None:
    x, weight = draw(2, 8).requires_grad_(), draw(6, 8)
    (gradient,) = torch.autograd.grad(library.linear(x, weight).sum(), x)
    check(gradient, weight.double().sum(0).expand(2, 8))
    assert not library.linear(x.detach(), weight).requires_grad


def test_output_may_be_changed_in_place(library: TorchProducts) -> None:
    """The rotation works within the projection's output."""
    x, weight = draw(2, 8).requires_grad_(), draw(6, 8)
    out = library.linear(x, weight)
    out.mul_(2)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    check(gradient, 2 * weight.double().sum(0).expand(2, 8))


@needs_onednn
def test_torchs_own_switch_turns_it_off() -> None:
    x = draw(2, 2)
    assert ONEDNN.takes(x) and products.onednn_obstacle() is None
    assert not ONEDNN.takes(x.double()) and not ONEDNN.takes(x.bfloat16())
    with torch.backends.mkldnn.flags(enabled=False):
        assert not ONEDNN.takes(x) and "switched off" in str(products.onednn_obstacle())
