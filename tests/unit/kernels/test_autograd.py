"""Rotations with gradients against float64, by every rotation of ours, in every layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels.autograd import rotate_fused_qkv, rotate_query_key
from nemo_pi.rope.tables import attention_factor, inverse_frequencies, rotary_cos_sin
from tests.unit.kernels.rotations import DEVICE, NAMES, Case, assert_close_to_truth, rotation, truth
from tests.unit.rope.peers import METHODS, make_spec

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CASES = [
    Case("sbhd", (4, 4), 16, 16, False, FP32),
    Case("sbhd", (6, 2), 10, 6, False, BF16),
    Case("sbhd", (3, 1), 256, 256, False, BF16, tokens=3),
    Case("bshd", (5, 1), 40, 20, True, FP32),
    Case("bshd", (1, 1), 2, 2, False, FP32, tokens=1, rows=1),
    Case("thd", (3, 3), 6, 6, True, BF16, tokens=11, rows=1),
    Case("thd", (8, 2), 96, 96, False, FP16),
    Case("bhsd", (2, 1), 256, 64, False, FP32, tokens=3),
    Case("fused", (3, 3), 80, 32, False, BF16),
    Case("fused", (4, 1), 24, 24, True, FP16),
    Case("fused", (5, 5), 12, 8, True, FP32),
]


def tables(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    angle = case.angles()
    return angle, angle.cos().float(), angle.sin().float()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_float64_forward_and_backward(name: str, case: Case) -> None:
    angle, cos, sin = tables(case)
    inputs = [x.detach().requires_grad_() for x in case.query_key()]
    before = [x.detach().clone() for x in inputs]
    turned = rotate_query_key(rotation(name), inputs[0], inputs[1], cos, sin, case.interleaved)
    upstream = [torch.randn(x.shape, device=DEVICE).to(case.dtype) for x in inputs]
    grads = torch.autograd.grad(turned, inputs, upstream)
    for x, y, grad, above, same in zip(inputs, turned, grads, upstream, before, strict=True):
        assert torch.equal(x, same), "the input is not touched"
        assert_close_to_truth(y, x, truth(x, angle, case.interleaved))
        assert_close_to_truth(grad, above, truth(above, -angle, case.interleaved))
        assert torch.equal(y[..., case.rotary_dim :], x[..., case.rotary_dim :])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_ten_million_tokens_out(name: str, method: str) -> None:
    """Every method, at arbitrary positions in every row, the temperature included."""
    spec = make_spec(method, original_window=4096, target_window=16_384, head_dim=16)
    positions = torch.tensor([[0, 1, 4095, 131_072], [9_999_999, 10_000_000, 3, 8_388_609]], device=DEVICE)
    cos, sin = rotary_cos_sin(spec, positions, seq_len=16_384)
    angle = positions[..., None].double() * inverse_frequencies(spec, 16_384).to(DEVICE).double()
    factor = attention_factor(spec, 16_384)
    q, k = torch.randn(2, 4, 4, 16, device=DEVICE), torch.randn(2, 4, 2, 16, device=DEVICE)
    for x, y in zip((q, k), rotate_query_key(rotation(name), q, k, cos, sin), strict=True):
        assert_close_to_truth(y, x, truth(x, angle, False, factor), factor)


@pytest.mark.parametrize("interleaved", [False, True])
def test_any_derivative(interleaved: bool) -> None:
    case = Case("bshd", (2, 1), 6, 4, interleaved, FP32, tokens=2, rows=1)
    angle = case.angles()
    q, k = (x.double().requires_grad_() for x in case.query_key())

    def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return rotate_query_key(rotation("torch"), q, k, angle.cos(), angle.sin(), interleaved)

    assert torch.autograd.gradcheck(rotate, (q, k))
    assert torch.autograd.gradgradcheck(rotate, (q, k))


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_sum(name: str) -> None:
    """It arrives as one number seen many times, with strides of 0."""
    case = Case("sbhd", (2, 2), 8, 8, False, FP32)
    angle, cos, sin = tables(case)
    q, k = (x.requires_grad_() for x in case.query_key())
    sum(x.sum() for x in rotate_query_key(rotation(name), q, k, cos, sin)).backward()  # type: ignore[union-attr]
    ones = torch.ones_like(q)
    assert q.grad is not None
    assert_close_to_truth(q.grad, ones, truth(ones, -angle, False))


@pytest.mark.parametrize("name", NAMES)
def test_only_one_of_them_is_used(name: str) -> None:
    case = Case("sbhd", (2, 1), 8, 8, False, FP32)
    _, cos, sin = tables(case)
    q, k = (x.requires_grad_() for x in case.query_key())
    rotate_query_key(rotation(name), q, k, cos, sin)[0].sum().backward()
    assert q.grad is not None and k.grad is not None and not k.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_tokens(name: str) -> None:
    q, k = torch.ones(0, 2, 4, 8, device=DEVICE), torch.ones(0, 2, 2, 8, device=DEVICE)
    cos = torch.ones(0, 2, 4, device=DEVICE)
    assert [x.shape for x in rotate_query_key(rotation(name), q, k, cos, cos)] == [q.shape, k.shape]


@pytest.mark.parametrize("name", NAMES)
def test_one_table_for_all_rows(name: str) -> None:
    """A table [S, F] serves every row of [B, S, N, D]."""
    case = Case("bshd", (2, 2), 8, 8, False, FP32)
    angle_SF = 100 * torch.randn(case.tokens, 4, device=DEVICE, dtype=torch.float64)
    q, k = case.query_key()
    turned, _ = rotate_query_key(rotation(name), q, k, angle_SF.cos().float(), angle_SF.sin().float())
    assert_close_to_truth(turned, q, truth(q, angle_SF, False))


def saved_by(work: Any) -> set[int]:
    """Addresses of what autograd keeps for the backward pass of `work`."""
    kept: set[int] = set()

    def keep(x: Tensor) -> Tensor:
        kept.add(x.untyped_storage().data_ptr())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        work()
    return kept


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [False, True])
def test_keeps_the_tables_alone(name: str, fused: bool) -> None:
    case = Case("sbhd", (2, 2), 8, 8, False, FP32)
    _, cos, sin = tables(case)
    q, k = (x.requires_grad_() for x in case.query_key())
    mixed = torch.randn(7, 2, 2, 24, device=DEVICE, requires_grad=True)

    def work() -> None:
        if fused:
            rotate_fused_qkv(rotation(name), mixed, cos, sin, 8)
        else:
            rotate_query_key(rotation(name), q, k, cos, sin)

    assert saved_by(work) == {table.untyped_storage().data_ptr() for table in (cos, sin)}


# Groups, query heads in each, head dim, rotary dim, interleaved, in place where allowed, dtype.
FUSED = [
    (3, 1, 10, 6, False, False, BF16),
    (3, 1, 16, 16, True, True, FP32),
    (1, 4, 24, 20, False, True, FP32),
    (2, 3, 16, 16, False, True, BF16),
    (2, 3, 12, 8, True, False, FP16),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("groups", "per_group", "head_dim", "rotary_dim", "interleaved", "in_place", "dtype"), FUSED
)
def test_fused_projection(
    name: str,
    groups: int,
    per_group: int,
    head_dim: int,
    rotary_dim: int,
    interleaved: bool,
    in_place: bool,
    dtype: torch.dtype,
) -> None:
    """Split and rotated in one go, and the gradient of the projection's output put together again."""
    leaf = torch.randn(5, 2, groups, (per_group + 2) * head_dim, device=DEVICE).to(dtype).requires_grad_()
    angle = 100 * torch.randn(5, 2, 1, rotary_dim // 2, device=DEVICE, dtype=torch.float64)
    mixed, cos, sin = leaf * 1, angle.cos().float(), angle.sin().float()
    split = rotate_fused_qkv(rotation(name), mixed, cos, sin, head_dim, interleaved, in_place=in_place)

    inside = (per_group == 1 or groups == 1) and in_place
    shared = [x.untyped_storage().data_ptr() == mixed.untyped_storage().data_ptr() for x in split]
    assert shared == [inside] * 3
    heads = leaf.detach().unflatten(-1, (-1, head_dim))
    q, k, v = heads[..., :-2, :].flatten(2, 3), heads[..., -2, :], heads[..., -1, :]
    assert_close_to_truth(split[0], q, truth(q, angle, interleaved))
    assert_close_to_truth(split[1], k, truth(k, angle, interleaved))
    assert torch.equal(split[2], v)

    upstream = [torch.randn(x.shape, device=DEVICE).to(dtype) for x in split]
    (grad,) = torch.autograd.grad(split, leaf, upstream)
    back = grad.unflatten(-1, (-1, head_dim))
    parts = back[..., :-2, :].flatten(2, 3), back[..., -2, :]
    for part, above in zip(parts, upstream[:2], strict=True):
        assert_close_to_truth(part, above, truth(above, -angle, interleaved))
    assert torch.equal(back[..., -1, :], upstream[2])


@pytest.mark.parametrize("name", NAMES)
def test_in_place_spares_a_leaf(name: str) -> None:
    """Autograd does not let a leaf that wants a gradient be changed; without one it is fair game."""
    cos = sin = torch.full((3, 1, 4), 0.5, device=DEVICE)
    leaf = torch.randn(3, 1, 2, 24, device=DEVICE, requires_grad=True)
    before = leaf.detach().clone()
    rotate_fused_qkv(rotation(name), leaf, cos, sin, 8, in_place=True)
    assert torch.equal(leaf, before)
    rotate_fused_qkv(rotation(name), leaf.detach(), cos, sin, 8, in_place=True)
    assert not torch.equal(leaf, before)


@pytest.mark.parametrize("name", NAMES)
def test_in_place_is_noticed_by_who_needed_the_values(name: str) -> None:
    """exp keeps its output for the backward pass; a linear layer does not."""
    cos = sin = torch.full((3, 1, 4), 0.5, device=DEVICE)
    leaf = torch.randn(3, 1, 2, 24, device=DEVICE, requires_grad=True)
    q, _, _ = rotate_fused_qkv(rotation(name), leaf.exp(), cos, sin, 8, in_place=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        q.sum().backward()
    weight = torch.randn(24, 24, device=DEVICE, requires_grad=True)
    q, _, _ = rotate_fused_qkv(rotation(name), leaf @ weight, cos, sin, 8, in_place=True)
    q.sum().backward()
    assert leaf.grad is not None and weight.grad is not None


def test_tables_have_no_gradient() -> None:
    cos = torch.ones(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="constants"):
        rotate_query_key(rotation("torch"), torch.ones(3, 1, 8), torch.ones(3, 1, 8), cos, cos)
