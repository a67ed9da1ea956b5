"""LongRoPE (arXiv 2402.13753): one searched factor per frequency, and two sets of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_pi.rope import plain


def inverse_frequencies(
    rotary_dim: int,
    base: float,
    original_window: int,
    short_factor: Sequence[float],
    long_factor: Sequence[float],
    seq_len: int | None,
) -> Tensor:
    """θ_j / λ_j with the long factors beyond the original window, the short ones within; fp32.

    seq_len None means within.
    """
    is_long = seq_len is not None and seq_len > original_window
    factors_F = torch.tensor(tuple(long_factor if is_long else short_factor), dtype=torch.float32)
    return 1.0 / (factors_F * plain.wavelength_powers(rotary_dim, base))


def attention_factor(factor: float, original_window: int) -> float:
    """sqrt(1 + ln s / ln L), at every length; 1 where nothing is extended."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_window))
