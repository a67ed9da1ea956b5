"""Llama 3.1's frequency-dependent scaling (arXiv 2407.21783; released model code)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nemo_pi.rope import plain


def inverse_frequencies(
    rotary_dim: int,
    base: float,
    factor: float,
    original_window: int,
    low_freq_factor: float,
    high_freq_factor: float,
) -> Tensor:
    """θ_j / s for long wavelengths, θ_j for short ones, a blend linear in L / wavelength between.

    Long means above original_window / low_freq_factor, short below original_window / high_freq_factor.
    fp32 [rotary_dim / 2].
    """
    inverse_F = plain.inverse_frequencies(rotary_dim, base)
    wavelength_F = 2 * math.pi / inverse_F
    kept_F = (original_window / wavelength_F - low_freq_factor) / (high_freq_factor - low_freq_factor)
    blended_F = (1 - kept_F) * inverse_F / factor + kept_F * inverse_F
    is_long_F = wavelength_F > original_window / low_freq_factor
    is_short_F = wavelength_F < original_window / high_freq_factor
    return torch.where(is_long_F, inverse_F / factor, torch.where(is_short_F, inverse_F, blended_F))
