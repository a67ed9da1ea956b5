"""What Transformer Engine and apex are handed; their documented formulas stand in for their kernels."""

from __future__ import annotations

import importlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nemo_pi.kernels.adapters import as_one_sequence, full_width, is_installed
from nemo_pi.kernels.reference import apply_rotary


def documented(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x·cos + partner·sin on [sequence, batch, heads, channels], with tables [sequence, 1, 1, channels]."""
    assert x.dim() == 4 and cos.shape == (x.shape[0], 1, 1, cos.shape[-1]) == sin.shape
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    if interleaved:
        partner = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
    else:
        partner = torch.cat((-turned[..., turned.shape[-1] // 2 :], turned[..., : turned.shape[-1] // 2]), -1)
    return torch.cat((turned * cos + partner * sin, rest), dim=-1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("head_axis", [False, True])
def test_each_token_of_each_row_has_its_own_angles(interleaved: bool, head_axis: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, 2, 10)
    angle = 100 * torch.randn(5, 3, 1, 4) if head_axis else 100 * torch.randn(5, 3, 4)
    cos, sin = angle.cos(), angle.sin()
    expected = apply_rotary(x, cos, sin, interleaved)

    tables = [full_width(table, x, interleaved) for table in (cos, sin)]
    given = as_one_sequence(lambda x, cos, sin: documented(x, cos, sin, interleaved), x, *tables)
    torch.testing.assert_close(given, expected, rtol=0.0, atol=1e-6)

    (within_a_turn,) = [full_width(torch.atan2(sin, cos), x, interleaved)]
    given = as_one_sequence(lambda x, a: documented(x, a.cos(), a.sin(), interleaved), x, within_a_turn)
    torch.testing.assert_close(given, expected, rtol=0.0, atol=2e-6)


def test_a_projection_is_handed_over_where_it_lies() -> None:
    key = torch.randn(5, 3, 2, 40)[..., 10:20]
    seen: list[Tensor] = []

    def kernel(x: Tensor) -> Tensor:
        seen.append(x)
        return x.clone(memory_format=torch.contiguous_format)

    assert torch.equal(as_one_sequence(kernel, key), key)
    assert seen[0].shape == (15, 1, 2, 10) and seen[0].data_ptr() == key.data_ptr()


@pytest.mark.parametrize("folder", ["", "a_library", "a_library/wheel_lib"])
def test_compiled_modules_are_found_wherever_transformer_engine_keeps_them(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_library" / "wheel_lib").mkdir(parents=True)
    (tmp_path / "a_library" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("a_library_torch")
    (tmp_path / folder / f"a_library_torch{EXTENSION_SUFFIXES[-1]}").touch()
    importlib.invalidate_caches()
    assert is_installed("a_library_torch")
