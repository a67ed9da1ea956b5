"""Rotary position embedding as first published (arXiv 2104.09864, section 3.2.2); nothing is scaled.

Shapes: F = rotary_dim / 2 frequencies.

Precision: every method's inverse frequencies are fp32, made by the same sequence of fp32 operations as in
Hugging Face transformers, on the CPU. They are part of the model: whoever loads an exported checkpoint must
rebuild the same bits, because at position 10⁶ one unit in the last place of a frequency is 0.06 rad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.hf_rope import HfRope


def wavelength_powers(rotary_dim: int, base: float, num_frequencies: int | None = None) -> Tensor:
    """b^(2j/D) for j in 0 … F-1, or for the first few only: tokens per radian of each frequency; fp32 [F]."""
    stop = rotary_dim if num_frequencies is None else 2 * num_frequencies
    exponents_F = torch.arange(0, stop, 2, dtype=torch.float32) / rotary_dim
    return base**exponents_F


def inverse_frequencies(rotary_dim: int, base: float) -> Tensor:
    """θ_j = b^(-2j/D): radians per token of each frequency; fp32 [F]."""
    return 1.0 / wavelength_powers(rotary_dim, base)


@dataclass(frozen=True)
class Plain(ScalingMethod):
    """Plain RoPE; with a longer target window, direct fine-tuning (the paper's comparison)."""

    name = "none"
    also_called = ("default", "rope")
    title = "none: plain rotary positions"
    formula = "θ_j = b^(−2j/D)"
    source = "RoPE, arXiv 2104.09864, section 3.2.2"
    training = (
        "direct fine-tuning: after 10,000 steps LLaMA-7B retrieved from 2,560 tokens back, not from 8,192 "
        "(arXiv 2306.15595, section 3.3)"
    )
    factor_is_ratio = False
    hf_types = ("default",)

    def check(self, rope: RopeNumbers) -> None:
        """Its factor is 1 at any target."""
        if rope.factor != 1:
            raise ConfigError(
                "factor",
                required=f"1 or null with `method` {self.name}",
                given=f"{rope.factor:.10g}",
                fix="write `factor`: null for direct fine-tuning, or choose `method`: linear",
            )

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        return inverse_frequencies(rope.rotary_dim, rope.base)

    def is_scaled(self, rope: RopeNumbers) -> bool:
        """Never."""
        return False

    @classmethod
    def derived_factor(cls, original_window: int, target_window: int) -> float:
        """1: the windows may differ, the positions do not."""
        return 1.0

    def plan(self, rope: RopeNumbers) -> str:
        """Whether a longer window is to be learned from plain positions."""
        longer = rope.target_window > rope.original_window
        return f"{self.name}: direct fine-tuning at the target window" if longer else self.title

    def to_hf(self, rope: RopeNumbers) -> dict[str, Any]:
        """Type and base alone."""
        return {"rope_type": self.hf_types[0], "rope_theta": rope.base}

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """A window and no factor, whatever else stands there."""
        return {"original_window": entries.window, "target_window": entries.window}
