"""The reference rotation against complex numbers, transformers' own, and its own inverse."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as gptj_rotate
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama_rotate

from nemo_pi.kernels.reference import apply_rotary, rotate_query_key


def tables(*shape: int) -> tuple[Tensor, Tensor]:
    angle = 100 * torch.randn(*shape, dtype=torch.float64)
    return angle.cos().float(), angle.sin().float()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("num_heads", "head_dim", "rotary_dim"), [(1, 2, 2), (3, 64, 64), (5, 80, 32), (4, 10, 6)]
)
@pytest.mark.parametrize("interleaved", [False, True])
def test_multiplies_by_complex_numbers(
    num_heads: int, head_dim: int, rotary_dim: int, interleaved: bool
) -> None:
    """Pair (a, b) becomes (a + ib)·e^{iφ}; one channel at a time, in Python."""
    x_BSND = torch.randn(2, 3, num_heads, head_dim)
    cos_BSF, sin_BSF = tables(2, 3, rotary_dim // 2)
    rotated = apply_rotary(x_BSND, cos_BSF, sin_BSF, interleaved)
    for b, s, n, j in product(range(2), range(3), range(num_heads), range(rotary_dim // 2)):
        one, two = (2 * j, 2 * j + 1) if interleaved else (j, j + rotary_dim // 2)
        pair = complex(x_BSND[b, s, n, one], x_BSND[b, s, n, two])
        expected = pair * complex(cos_BSF[b, s, j], sin_BSF[b, s, j])
        given = complex(rotated[b, s, n, one], rotated[b, s, n, two])
        assert abs(given - expected) <= 4 * 2.0**-24 * abs(pair)
    assert torch.equal(rotated[..., rotary_dim:], x_BSND[..., rotary_dim:])


def test_agrees_with_llama() -> None:
    q_BSND, k_BSND = torch.randn(2, 7, 6, 32), torch.randn(2, 7, 2, 32)
    cos_BSF, sin_BSF = tables(2, 7, 16)
    ours = rotate_query_key(q_BSND, k_BSND, cos_BSF, sin_BSF)
    both = (torch.cat((table, table), dim=-1) for table in (cos_BSF, sin_BSF))
    theirs = llama_rotate(q_BSND, k_BSND, *both, unsqueeze_dim=2)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-6, atol=1e-6)


def test_agrees_with_gptj() -> None:
    x_BSND = torch.randn(2, 7, 6, 32)
    cos_BSF, sin_BSF = tables(2, 7, 16)
    ours = apply_rotary(x_BSND, cos_BSF, sin_BSF, interleaved=True)
    torch.testing.assert_close(ours, gptj_rotate(x_BSND, sin_BSF, cos_BSF), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("interleaved", [False, True])
def test_downcast_comes_last(dtype: torch.dtype, interleaved: bool) -> None:
    """Forward and backward: fp32 results rounded once."""
    x_SND, upstream_SND = torch.randn(5, 3, 16, dtype=dtype), torch.randn(5, 3, 16, dtype=dtype)
    cos_SF, sin_SF = tables(5, 6)
    results = []
    for leaf in (x_SND.clone().requires_grad_(), x_SND.float().requires_grad_()):
        rotated = apply_rotary(leaf, cos_SF, sin_SF, interleaved)
        assert rotated.dtype == leaf.dtype
        rotated.backward(upstream_SND.to(leaf.dtype))
        results.append((rotated.detach(), leaf.grad))
    for low, full in zip(*results, strict=True):
        assert low is not None and full is not None
        assert torch.equal(low, full.to(dtype))


@pytest.mark.parametrize("interleaved", [False, True])
def test_gradient(interleaved: bool) -> None:
    cos_SF, sin_SF = (table.double() for table in tables(3, 2))
    x_SND = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, cos_SF, sin_SF, interleaved), (x_SND,))


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_opposite_angle_undoes_it(interleaved: bool) -> None:
    x_SND = torch.randn(5, 3, 16)
    cos_SF, sin_SF = tables(5, 8)
    back = apply_rotary(apply_rotary(x_SND, cos_SF, sin_SF, interleaved), cos_SF, -sin_SF, interleaved)
    torch.testing.assert_close(back, x_SND, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_distance_alone(interleaved: bool) -> None:
    """What RoPE is for: q at m and k at n meet like q at m + t and k at n + t."""
    q_ND, k_ND, theta_F = torch.randn(1, 16), torch.randn(1, 16), torch.logspace(0, -2, 8)

    def score(m: int, n: int) -> Tensor:
        q = apply_rotary(q_ND, (m * theta_F).cos(), (m * theta_F).sin(), interleaved)
        return q @ apply_rotary(k_ND, (n * theta_F).cos(), (n * theta_F).sin(), interleaved).T

    torch.testing.assert_close(score(3, 1), score(40, 38), rtol=1e-5, atol=1e-5)
    assert (score(3, 1) - score(4, 1)).abs() > 1e-2


def test_tables_with_a_head_axis() -> None:
    """Megatron's order [S, B, N, D] with tables [S, B, 1, F], or the same tables without that axis."""
    x_SBND = torch.randn(7, 2, 3, 8)
    cos_SBF, sin_SBF = tables(7, 2, 4)
    without = apply_rotary(x_SBND, cos_SBF, sin_SBF)
    assert torch.equal(apply_rotary(x_SBND, cos_SBF[:, :, None], sin_SBF[:, :, None]), without)


def test_one_table_for_all_rows() -> None:
    x_BSND = torch.randn(2, 7, 3, 8)
    cos_SF, sin_SF = tables(7, 4)
    assert torch.equal(apply_rotary(x_BSND, cos_SF, sin_SF)[1], apply_rotary(x_BSND[1], cos_SF, sin_SF))


def test_too_wide_a_table() -> None:
    with pytest.raises(ValueError, match="cannot rotate 10 channels of a head that has 8"):
        apply_rotary(torch.randn(1, 8), *tables(5))
