"""YaRN's ramp, ends and temperature, at Llama 2's numbers."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_pi.rope.methods import plain, yarn


def test_correction_range_of_llama_2() -> None:
    """D = 128, b = 10⁴, L = 4,096: 32 turns at index 20.94, one at 45.03."""
    assert yarn.correction_range(128, 1e4, 4096, 32.0, 1.0, truncate=True) == (20, 46)
    low, high = yarn.correction_range(128, 1e4, 4096, 32.0, 1.0, truncate=False)
    assert (low, high) == pytest.approx((20.944, 45.026), abs=2e-3)


def test_correction_dim_turns_that_often() -> None:
    index = yarn.correction_dim(5.0, 128, 1e4, 4096)
    wavelength = 2 * math.pi * 1e4 ** (2 * index / 128)
    assert 4096 / wavelength == pytest.approx(5.0)


def test_range_is_clamped_to_the_rotary_dimension() -> None:
    assert yarn.correction_range(16, 1e4, 8, 32.0, 1.0, truncate=True)[0] == 0
    assert yarn.correction_range(16, 1e4, 10**9, 32.0, 1.0, truncate=True)[1] == 15


def test_ends_of_the_ramp_are_kept_and_interpolated_exactly() -> None:
    yarn_F, plain_F = yarn.inverse_frequencies(128, 1e4, 16.0, 4096), plain.inverse_frequencies(128, 1e4)
    assert torch.equal(yarn_F[:21], plain_F[:21])
    assert torch.equal(yarn_F[46:], plain_F[46:] / 16)
    between_F = yarn_F[21:46] / plain_F[21:46]
    assert (between_F < 1).all() and (between_F > 1 / 16).all()
    # The middle of the ramp, index 33, is an even mix.
    torch.testing.assert_close(yarn_F[33], plain_F[33] * (1 + 1 / 16) / 2, rtol=1e-6, atol=0.0)


def test_empty_ramp_is_a_step() -> None:
    assert yarn.interpolated_share(3, 3, 6).tolist() == [0, 0, 0, 0, 1, 1]


def test_temperature() -> None:
    assert yarn.attention_factor(math.e**10) == pytest.approx(2.0)
    assert yarn.attention_factor(1.0, 3.0, 0.5) == 1.0
    assert yarn.attention_factor(math.e**10, 2.0, 0.5) == pytest.approx(3.0 / 1.5)
    assert yarn.attention_factor(40.0, 0.7, 0.7) == 1.0
    assert yarn.attention_factor(math.e**10, mscale=2.0) == pytest.approx(2.0)  # a lone one has no effect
