"""Rotary kernels compiled and run on a GPU: parity at real sizes, peers where they are installed, speed."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from benchmarks.harness import alternate, copy_work, ratio
from nemo_pi.kernels.autograd import rotate_fused_qkv, rotate_query_key
from nemo_pi.kernels.capability import RotaryNeeds
from nemo_pi.kernels.reference import rotate_query_key as reference
from nemo_pi.kernels.rotary import KERNELS, select_rotary_kernel
from nemo_pi.kernels.rotation import Rotation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton's interpreter is on"),
]

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# Query heads, key heads, head dim, rotary dim.
HEADS = [
    (32, 32, 128, 128),
    (32, 8, 128, 128),
    (71, 1, 64, 64),
    (16, 16, 256, 64),
    (5, 5, 80, 20),
    (1, 1, 2, 2),
]


def triton() -> Rotation:
    from nemo_pi.kernels.triton_rotary import rotate_heads

    return rotate_heads


def random(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(sum(shape))
    return torch.randn(shape, device="cuda", generator=generator).to(dtype)


def tables(*shape: int) -> tuple[Tensor, Tensor]:
    angle = 1e6 * random(*shape).double()
    return angle.cos().float(), angle.sin().float()


def assert_one_rounding_apart(given: Tensor, exact: Tensor) -> None:
    """`exact` is the result in fp32; `given` errs by its own rounding, to nearest, and a little of fp32's."""
    unit = {FP32: 2.0**-22, BF16: 2.0**-7, FP16: 2.0**-10}[given.dtype]
    error = (given.float() - exact).abs()
    assert (error <= 0.5 * unit * exact.abs() + 2.0**-18).all(), error.max()


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("q_heads", "k_heads", "head_dim", "rotary_dim"), HEADS)
def test_parity(
    q_heads: int, k_heads: int, head_dim: int, rotary_dim: int, interleaved: bool, dtype: torch.dtype
) -> None:
    """Odd numbers of tokens and rows, forward and backward, against the reference in fp32."""
    q, k = (random(1021, 3, heads, head_dim, dtype=dtype).requires_grad_() for heads in (q_heads, k_heads))
    above = tuple(random(1021, 3, heads, head_dim, dtype=dtype) for heads in (q_heads, k_heads))
    cos, sin = tables(1021, 3, 1, rotary_dim // 2)
    given = rotate_query_key(triton(), q, k, cos, sin, interleaved)
    grads = torch.autograd.grad(given, (q, k), above)
    full = [x.detach().float().requires_grad_() for x in (q, k)]
    exact = reference(full[0], full[1], cos, sin, interleaved)
    exact_grads = torch.autograd.grad(exact, full, tuple(x.float() for x in above))
    for one, other in zip((*given, *grads), (*exact, *exact_grads), strict=True):
        assert one.dtype == dtype
        assert_one_rounding_apart(one, other)


@pytest.mark.parametrize(("groups", "per_group"), [(32, 1), (8, 4), (1, 8)])
@pytest.mark.parametrize("in_place", [False, True])
def test_fused_projection_equals_torch(groups: int, per_group: int, in_place: bool) -> None:
    from nemo_pi.kernels import torch_rotary

    projected = random(513, 2, groups, (per_group + 2) * 128, dtype=BF16)
    cos, sin = tables(513, 2, 1, 64)
    above = [random(513, 2, heads, 128, dtype=BF16) for heads in (groups * per_group, groups, groups)]
    results = []
    for rotation, dtype in ((triton(), BF16), (torch_rotary.rotate_heads, FP32)):
        leaf = projected.to(dtype, copy=True).requires_grad_()
        split = rotate_fused_qkv(rotation, leaf * 1, cos, sin, 128, in_place=in_place)
        results.append((*split, *torch.autograd.grad(split, leaf, [x.to(dtype) for x in above])))
    for one, other in zip(*results, strict=True):
        assert_one_rounding_apart(one, other.float())


@pytest.mark.parametrize("name", ["transformer_engine", "apex"])
def test_other_libraries_agree(name: str) -> None:
    """Two rows at positions of their own, forward and backward."""
    needs = RotaryNeeds(128, device_type="cuda", dtype=FP32)
    (kernel,) = (kernel for kernel in KERNELS if kernel.name == name)
    if kernel.unusable(needs) is not None:
        pytest.skip(f"{name}: {kernel.unusable(needs)}")
    q, k = (random(257, 2, heads, 128).requires_grad_() for heads in (8, 2))
    cos, sin = tables(257, 2, 1, 32)
    above = random(257, 2, 8, 128), random(257, 2, 2, 128)
    results = [
        (*turned, *torch.autograd.grad(turned, (q, k), above))
        for turned in (kernel(q, k, cos, sin), reference(q, k, cos, sin))
    ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_auto_takes_triton() -> None:
    assert select_rotary_kernel("auto", RotaryNeeds(128, device_type="cuda", dtype=BF16)).name == "triton"


@pytest.mark.parametrize(("q_heads", "k_heads"), [(32, 32), (32, 8)])
def test_moves_bytes_nearly_as_fast_as_a_copy(q_heads: int, k_heads: int) -> None:
    """Forward and backward at 32k tokens; below half of a copy's speed something is badly laid out."""
    q, k = (random(32_768, 1, heads, 128, dtype=BF16).requires_grad_() for heads in (q_heads, k_heads))
    above = torch.ones_like(q), torch.ones_like(k)
    cos, sin = tables(32_768, 1, 1, 64)

    def work() -> object:
        return torch.autograd.grad(rotate_query_key(triton(), q, k, cos, sin), (q, k), above)

    copy = copy_work(4 * (q.nbytes + k.nbytes), "cuda")
    seconds = alternate({"ours": work, "copy": copy}, rounds=9, warmup=3)
    assert ratio(seconds["copy"], seconds["ours"]).median > 0.5
