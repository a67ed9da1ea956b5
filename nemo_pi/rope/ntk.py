"""NTK-aware scaling with a fixed factor: a larger base (arXiv 2309.00071, section 3.1, equation 16)."""

from __future__ import annotations

from torch import Tensor

from nemo_pi.rope import plain


def scaled_base(rotary_dim: int, base: float, factor: float) -> float:
    """b' = b · s^(D/(D-2)): the lowest frequency is divided by s, the highest stays as it is."""
    return base * factor ** (rotary_dim / (rotary_dim - 2))


def inverse_frequencies(rotary_dim: int, base: float, factor: float) -> Tensor:
    """Plain frequencies of the scaled base; fp32 [rotary_dim / 2]. rotary_dim must exceed 2."""
    return plain.inverse_frequencies(rotary_dim, scaled_base(rotary_dim, base, factor))
