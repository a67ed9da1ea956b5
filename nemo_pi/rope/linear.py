"""Position Interpolation (arXiv 2306.15595, equation 4): position m becomes m / s."""

from __future__ import annotations

from torch import Tensor

from nemo_pi.rope import plain


def inverse_frequencies(rotary_dim: int, base: float, factor: float) -> Tensor:
    """θ_j / s; fp32 [rotary_dim / 2].

    Scaling frequencies instead of positions keeps positions whole; by 1 it is plain RoPE bit for bit.
    """
    return plain.inverse_frequencies(rotary_dim, base) / factor
