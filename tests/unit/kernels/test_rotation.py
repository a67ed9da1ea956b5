"""Tensors and tables brought into the one form that rotations take."""

from __future__ import annotations

import pytest
import torch

from nemo_pi.kernels.rotation import angles_for, as_heads


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 8), (1, 1, 3, 1, 8)),
        ((7, 3, 8), (7, 1, 3, 1, 8)),
        ((7, 2, 3, 8), (7, 2, 3, 1, 8)),
        ((4, 7, 2, 3, 8), (28, 2, 3, 1, 8)),
    ],
)
def test_leading_axes_become_two(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    heads = as_heads(x)
    assert heads.shape == expected and heads.data_ptr() == x.data_ptr()
    angles = angles_for(x, torch.ones(4), torch.ones(4), False)
    assert angles.cos_TUF.shape == (*expected[:2], 4) and angles.rotary_dim == 8


def test_a_strided_view_stays_one() -> None:
    x = torch.randn(7, 2, 5, 3, 8)[:, :, 1:4, 0]
    assert as_heads(x).data_ptr() == x.data_ptr() and as_heads(x).stride()[:3] == x.stride()[:3]


def test_tables_with_and_without_a_head_axis() -> None:
    x, table = torch.randn(7, 2, 3, 8), torch.randn(7, 2, 4)
    for given in (table, table[:, :, None]):
        assert torch.equal(angles_for(x, given, given, False).sin_TUF, table)


def test_what_is_refused() -> None:
    x = torch.randn(7, 2, 3, 8)
    with pytest.raises(ValueError, match="cannot rotate 10 channels of a head that has 8"):
        angles_for(x, torch.ones(5), torch.ones(5), False)
    with pytest.raises(ValueError, match="same for all heads; got 3"):
        angles_for(x, torch.ones(7, 2, 3, 4), torch.ones(7, 2, 3, 4), False)
    with pytest.raises(TypeError, match=r"must be torch\.float32 or wider; got torch\.bfloat16"):
        angles_for(x.bfloat16(), torch.ones(4).bfloat16(), torch.ones(4).bfloat16(), False)
    with pytest.raises(TypeError, match=r"must be torch\.float64"):
        angles_for(x.double(), torch.ones(4), torch.ones(4), False)
