"""What the tests of rotary kernels share: inputs in every layout, and the truth in float64.

Shapes: S tokens, B rows, N heads, D channels of a head, F = rotated channels / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels.native import obstacle
from nemo_pi.kernels.reference import apply_rotary
from nemo_pi.kernels.rotation import Rotation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDS_TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
NEEDS_NATIVE = pytest.mark.skipif(obstacle() is not None or DEVICE == "cuda", reason=f"native: {obstacle()}")
NAMES = (
    "torch",
    pytest.param("native", marks=NEEDS_NATIVE),
    pytest.param("triton", marks=NEEDS_TRITON),
)
"""Every rotation of ours, to parametrize tests with."""


def rotation(name: str) -> Rotation:
    """The rotation of that name; imported now, after conftest has chosen the interpreter or the GPU."""
    if name == "triton":
        from nemo_pi.kernels.triton_rotary import rotate_heads
    elif name == "native":
        from nemo_pi.kernels.native_rotary import rotate_heads
    else:
        from nemo_pi.kernels.torch_rotary import rotate_heads
    return rotate_heads


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison."""

    layout: str
    """sbhd, bshd, thd, bhsd (heads outside, seen as bshd) or fused (inside a QKV projection, sbhd)."""
    heads: tuple[int, int]
    """Of q and of k."""
    head_dim: int
    rotary_dim: int
    interleaved: bool
    dtype: torch.dtype
    tokens: int = 7
    rows: int = 2

    def __str__(self) -> str:
        pairs = "neighbours" if self.interleaved else "halves"
        return f"{self.layout}-{self.heads}-{self.rotary_dim}of{self.head_dim}-{pairs}-{self.dtype}"

    @property
    def leading(self) -> tuple[int, ...]:
        """Leading axes of q and k."""
        if self.layout == "thd":
            return (self.tokens * self.rows,)
        rows_first = self.layout in ("bshd", "bhsd")
        return (self.rows, self.tokens) if rows_first else (self.tokens, self.rows)

    def query_key(self) -> tuple[Tensor, Tensor]:
        """Random q and k in this layout."""
        q, k = (self._random(heads) for heads in self.heads)
        if self.layout != "fused":
            return q, k
        groups, per_group = self.heads[1], self.heads[0] // self.heads[1]
        mixed = self._random(groups * (per_group + 2)).unflatten(2, (groups, -1))
        # Query heads of a group stand together: one axis only where there is one group or one head in each.
        assert per_group == 1 or groups == 1
        return mixed[..., :-2, :].flatten(2, 3), mixed[..., -2, :]

    def _random(self, heads: int) -> Tensor:
        shape = (*self.leading, heads, self.head_dim)
        if self.layout == "bhsd":
            outside = torch.randn(shape[0], heads, shape[1], self.head_dim, device=DEVICE)
            return outside.to(self.dtype).transpose(1, 2)
        return torch.randn(shape, device=DEVICE).to(self.dtype)

    def angles(self) -> Tensor:
        """Random angles [..., F] in float64."""
        return 100 * torch.randn(*self.leading, self.rotary_dim // 2, device=DEVICE, dtype=torch.float64)


def truth(x_ND: Tensor, angle_F: Tensor, interleaved: bool, factor: float = 1.0) -> Tensor:
    """Rotation in float64 from beginning to end."""
    return apply_rotary(x_ND.double(), factor * angle_F.cos(), factor * angle_F.sin(), interleaved)


def assert_close_to_truth(given: Tensor, x_ND: Tensor, exact_ND: Tensor, factor: float = 1.0) -> None:
    """Within what fp32 arithmetic on fp32 tables and one rounding to the dtype of x can lose.

    Each of two products errs by its table's rounding and its own, their sum by one more: 2^-24 each, of at
    most twice the largest channel. The last rounding is to nearest; Triton's interpreter cuts bf16 off
    instead, which costs a whole unit rather than half of one.
    """
    assert given.dtype == x_ND.dtype and given.shape == x_ND.shape
    bits = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}[x_ND.dtype]
    largest = x_ND.double().abs().amax(dim=-1, keepdim=True)
    lost = 6 * 2.0**-24 * factor * largest
    if bits < 24:
        lost = lost + exact_ND.abs() * 2.0**-bits * (2 if x_ND.dtype is torch.bfloat16 else 1) + 2.0**-25
    error = (given.double() - exact_ND).abs()
    assert (error <= lost).all(), f"off by {(error / lost).max().item():.1f} times what is allowed"
