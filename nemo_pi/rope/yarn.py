"""YaRN (arXiv 2309.00071): interpolate slow frequencies, keep fast ones, and warm the attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nemo_pi.rope import plain

BETA_FAST = 32.0
"""Rotations within the original window above which a frequency is kept."""
BETA_SLOW = 1.0
"""Rotations within the original window below which a frequency is interpolated entirely."""


def correction_dim(rotations: float, rotary_dim: int, base: float, original_window: int) -> float:
    """Index j of the frequency that turns `rotations` times within the original window (section 3.2)."""
    return rotary_dim * math.log(original_window / (rotations * 2 * math.pi)) / (2 * math.log(base))


def correction_range(
    rotary_dim: int, base: float, original_window: int, beta_fast: float, beta_slow: float, truncate: bool
) -> tuple[float, float]:
    """Indices between which the ramp rises; truncate widens it to whole numbers, as in the released code.

    The upper end is clamped to D-1 as Hugging Face does (some implementations clamp to D/2-1).
    """
    low = correction_dim(beta_fast, rotary_dim, base, original_window)
    high = correction_dim(beta_slow, rotary_dim, base, original_window)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, rotary_dim - 1)


def interpolated_share(low: float, high: float, num_frequencies: int) -> Tensor:
    """The ramp: 0 (kept) up to index `low`, 1 (interpolated) from `high`; fp32 [num_frequencies]."""
    width = high - low if high != low else 0.001  # an empty ramp becomes a step
    return ((torch.arange(num_frequencies, dtype=torch.float32) - low) / width).clamp(0, 1)


def inverse_frequencies(
    rotary_dim: int,
    base: float,
    factor: float,
    original_window: int,
    beta_fast: float = BETA_FAST,
    beta_slow: float = BETA_SLOW,
    truncate: bool = True,
) -> Tensor:
    """Kept and interpolated frequencies blended along the ramp ("NTK-by-parts"); fp32 [rotary_dim / 2]."""
    powers_F = plain.wavelength_powers(rotary_dim, base)
    low, high = correction_range(rotary_dim, base, original_window, beta_fast, beta_slow, truncate)
    kept_F = 1 - interpolated_share(low, high, rotary_dim // 2)
    # 1 - kept, not the share itself: the rounding then is that of transformers, bit for bit.
    return (1.0 / (factor * powers_F)) * (1 - kept_F) + (1.0 / powers_F) * kept_F


def attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """0.1·ln s + 1, multiplied into both q and k through cos and sin (equation 22).

    With mscale and mscale_all_dim (DeepSeek), the ratio of (0.1·m·ln s + 1) for the two.
    """
    if mscale is None or mscale_all_dim is None:
        return _temperature(factor, 1.0)
    return _temperature(factor, mscale) / _temperature(factor, mscale_all_dim)


def _temperature(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
