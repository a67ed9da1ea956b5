"""The rotation in PyTorch operators: blocks of tokens, and no more memory than it says."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.kernels import torch_rotary
from nemo_pi.kernels.autograd import rotate_query_key
from nemo_pi.kernels.reference import rotate_query_key as reference
from nemo_pi.kernels.rotation import Heads, angles_for, as_heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rows_first", [False, True])
def test_blocks_leave_no_seam(
    dtype: torch.dtype, interleaved: bool, rows_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 3 tokens, the last one shorter, along whichever axis is longer."""
    monkeypatch.setattr(torch_rotary, "_BLOCK_BYTES", 3 * 2 * 4 * 16 * 4)
    leading = (2, 31) if rows_first else (31, 2)
    q, k = torch.randn(*leading, 4, 16).to(dtype), torch.randn(*leading, 2, 16).to(dtype)
    angle = torch.randn(*leading, 6)
    tables = angle.cos(), angle.sin(), interleaved
    for given, expected in zip(
        rotate_query_key(torch_rotary.rotate_heads, q, k, *tables), reference(q, k, *tables), strict=True
    ):
        torch.testing.assert_close(given, expected, rtol=0.0, atol=1e-6 if dtype is torch.float32 else 0.0)


@pytest.mark.parametrize("interleaved", [False, True])
def test_odd_places_in_memory(interleaved: bool) -> None:
    """Neighbouring channels are seen as complex numbers only where their addresses allow it."""
    odd = torch.randn(1 + 5 * 2 * 3 * 9)[1:].view(5, 2, 3, 9)[..., :8]
    tables = torch.randn(5, 2, 4), torch.randn(5, 2, 4), interleaved
    given = rotate_query_key(torch_rotary.rotate_heads, odd, odd[:, :, :1], *tables)
    for one, other in zip(given, reference(odd, odd[:, :, :1], *tables), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-6)


def test_in_place_needs_memory_for_one_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the tables at full width."""
    monkeypatch.setattr(torch_rotary, "_BLOCK_BYTES", 2**14)
    q, k, cos = torch.randn(512, 1, 8, 64), torch.randn(512, 1, 8, 64), torch.randn(512, 1, 32)
    heads = Heads(as_heads(q), as_heads(k))
    angles = angles_for(q, cos, cos, False)
    with torch.profiler.profile(profile_memory=True) as profile:
        torch_rotary.rotate_heads(heads, heads, angles)
    taken = [event.cpu_memory_usage for event in profile.events() if event.cpu_memory_usage > 0]
    assert max(taken) <= 2 * cos.numel() * 4 < q.numel() * 4
    assert sum(size > 2**14 for size in taken) <= 6, "tables, and no tensor as large as q"
