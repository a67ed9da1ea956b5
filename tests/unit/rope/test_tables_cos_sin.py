"""Cosines and sines at every position, near and far, against exact arithmetic and transformers."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies, rotary_cos_sin
from tests.unit.rope.peers import Peer, make_spec, random_spec

EPS = 2.0**-24
"""Relative error of rounding to fp32."""
FAR = [0, 1, 511, 512, 513, 4095, 4096, 131_071, 1_048_575, 2**23 + 1, 9_999_999, 10_000_000]


def test_ten_million_positions_are_one_rounding_from_the_truth(spec: ContextExtension) -> None:
    """50 digits of cos and sin of position × fp32 frequency, times the factor."""
    tables = rotary_cos_sin(spec, torch.tensor(FAR), seq_len=10_000_001)
    inverse_F = inverse_frequencies(spec, 10_000_001).tolist()
    factor = attention_factor(spec)
    with mpmath.workdps(50):
        for row, position in enumerate(FAR):
            for j, frequency in enumerate(inverse_F):
                angle = mpmath.mpf(position) * mpmath.mpf(frequency)
                for table, function in zip(tables, (mpmath.cos, mpmath.sin), strict=True):
                    exact = float(function(angle) * factor)
                    # 1e-9 for the exact product's range reduction in float64.
                    assert abs(table[row, j].item() - exact) <= EPS * abs(exact) * 1.001 + 1e-9


def test_an_fp32_product_would_not_do() -> None:
    """Why the product is taken in float64: what fp32 makes of the angle near ten million."""
    spec, positions = make_spec("none"), torch.tensor([9_999_999])
    (theirs_cos, _), (ours_cos, _) = Peer(spec).cos_sin(positions), rotary_cos_sin(spec, positions)
    assert (theirs_cos - ours_cos).abs().max() > 0.1


def assert_as_transformers(spec: ContextExtension, positions: Tensor, seq_len: int) -> None:
    ours = rotary_cos_sin(spec, positions, seq_len)
    theirs = Peer(spec).cos_sin(positions, seq_len)
    # Theirs rounds the angle to fp32, and frequencies may differ by one rounding each; then cos, the factor
    # and the result round.
    angle_BSF = positions[..., None].double() * inverse_frequencies(spec, seq_len).double()
    tolerance_BSF = (3 * EPS * angle_BSF + 6 * EPS) * max(1.0, attention_factor(spec))
    for ours_BSF, theirs_BSF in zip(ours, theirs, strict=True):
        assert ours_BSF.dtype == torch.float32 and ours_BSF.shape == theirs_BSF.shape
        assert ((ours_BSF.double() - theirs_BSF.double()).abs() <= tolerance_BSF).all()


@pytest.mark.parametrize("seed", range(14))
def test_tables_agree_with_transformers(seed: int) -> None:
    spec = random_spec(1000 + seed)
    window, target = spec.original_window, spec.target_window
    for length in (window - 1, window, window + 1, target, target + 1):
        last = torch.tensor([[0, 1, length // 2, length - 1]])
        assert_as_transformers(spec, last, length)


@pytest.mark.parametrize("method", ["dynamic", "longrope"])
def test_length_defaults_to_the_furthest_position(method: str) -> None:
    """The largest of the whole batch plus one, as in transformers; a rank's slice can be told otherwise."""
    spec = make_spec(method)
    positions = torch.tensor([[0, 1, 2], [5, 700, 6]])
    by_default, told = rotary_cos_sin(spec, positions), rotary_cos_sin(spec, positions, seq_len=701)
    assert torch.equal(by_default[0], told[0]) and torch.equal(by_default[1], told[1])
    assert not torch.equal(by_default[0], rotary_cos_sin(spec, positions, seq_len=512)[0])


def test_positions_are_used_as_given(spec: ContextExtension) -> None:
    """Skips, repeats and any order: each row is that of its position, whatever stands beside it."""
    positions = torch.tensor([[0, 1, 2000, 2001], [7, 7, 0, 3]])
    cos_BSF, sin_BSF = rotary_cos_sin(spec, positions, seq_len=4096)
    alone = torch.arange(2002)
    cos_SF, sin_SF = rotary_cos_sin(spec, alone, seq_len=4096)
    assert torch.equal(cos_BSF, cos_SF[positions]) and torch.equal(sin_BSF, sin_SF[positions])


def test_factor_is_folded_in() -> None:
    cos_SF, sin_SF = rotary_cos_sin(make_spec("yarn", extra_args={"attention_factor": 1.5}), torch.arange(9))
    torch.testing.assert_close(cos_SF**2 + sin_SF**2, torch.full((9, 32), 2.25))


def test_floating_positions_are_refused() -> None:
    with pytest.raises(TypeError, match=r"whole numbers.*bfloat16"):
        rotary_cos_sin(make_spec("none"), torch.arange(9).bfloat16())


def test_no_positions() -> None:
    cos_BSF, _ = rotary_cos_sin(make_spec("dynamic"), torch.zeros(2, 0, dtype=torch.long))
    assert cos_BSF.shape == (2, 0, 32)
