"""What the compiled rotation takes; its results are tested with all other rotations' (test_autograd.py)."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.kernels.native import obstacle
from nemo_pi.kernels.native_rotary import rotate_heads
from nemo_pi.kernels.reference import apply_rotary
from nemo_pi.kernels.rotation import Angles, Heads, as_heads
from nemo_pi.kernels.torch_rotary import rotate_heads as rotate_by_operators

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=f"native: {obstacle()}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    x, table = torch.ones(1, 1, 1, 1, 4, dtype=dtype), torch.ones(1, 1, 2)
    with pytest.raises(TypeError, match="fp32, bf16 and fp16"):
        rotate_heads(Heads(x, x), Heads(x, x), Angles(table, table, False))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("pairs", range(1, 20))
def test_every_number_of_pairs(pairs: int, interleaved: bool) -> None:
    """Those that fill registers and those that leave a rest, the channels behind them untouched."""
    x_SND, angle_SF = torch.randn(5, 3, 2 * pairs + 3), torch.randn(5, pairs)
    angles = Angles(angle_SF.cos()[:, None], angle_SF.sin()[:, None], interleaved)
    out_SND = torch.full_like(x_SND, torch.nan)
    rotate_heads(Heads(*[as_heads(x_SND)] * 2), Heads(*[as_heads(out_SND)] * 2), angles)
    exact = apply_rotary(x_SND.double(), angle_SF.cos().double(), angle_SF.sin().double(), interleaved)
    torch.testing.assert_close(out_SND.double(), exact, rtol=0, atol=1e-6)
    assert torch.equal(out_SND[..., 2 * pairs :], x_SND[..., 2 * pairs :])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_as_torch_does(dtype: torch.dtype) -> None:
    """To the nearest, ties to even; infinities and what is no number pass through a rotation by nothing."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(1, 2**11, 1, 1, 32)
    table = torch.ones(1, 2**11, 16)
    ours, theirs = torch.empty_like(bits), torch.empty_like(bits)
    for rotate, out in ((rotate_heads, ours), (rotate_by_operators, theirs)):
        rotate(Heads(bits, bits), Heads(out, out), Angles(1.003 * table, 0 * table, False))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_channels_that_lie_apart() -> None:
    x, table = torch.randn(2, 3, 1, 16, 4).transpose(3, 4), torch.rand(2, 3, 8)
    one, other = torch.empty(2, 3, 1, 4, 16), torch.empty(2, 3, 1, 4, 16)
    rotate_heads(Heads(x, x), Heads(one, one), Angles(table, table, False))
    rotate_heads(Heads(x.contiguous(), x), Heads(other, other), Angles(table, table, False))
    assert torch.equal(one, other)
