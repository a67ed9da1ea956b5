"""Rotary position embedding as first published (arXiv 2104.09864, section 3.2.2).

Shapes: F = rotary_dim / 2 frequencies.

Precision: every method's inverse frequencies are fp32, made by the same sequence of fp32 operations as in
Hugging Face transformers, on the CPU. They are part of the model: whoever loads an exported checkpoint must
rebuild the same bits, because at position 10⁶ one unit in the last place of a frequency is 0.06 rad.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wavelength_powers(rotary_dim: int, base: float) -> Tensor:
    """b^(2j/D) for j in 0 … F-1: tokens per radian of each frequency; fp32 [F]."""
    exponents_F = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    return base**exponents_F


def inverse_frequencies(rotary_dim: int, base: float) -> Tensor:
    """θ_j = b^(-2j/D): radians per token of each frequency; fp32 [F]."""
    return 1.0 / wavelength_powers(rotary_dim, base)
