"""Llama 3.1's frequency-dependent scaling (arXiv 2407.21783; released model code)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods import plain
from nemo_pi.rope.methods.arguments import number
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.candidates import Candidate
from nemo_pi.rope.methods.hf_rope import HfRope, unusable


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


@dataclass(frozen=True)
class Llama3(ScalingMethod):
    """Llama 3.1's scaling; its factor is published apart from the windows (8 and 32 for 8,192 → 131,072)."""

    name = "llama3"
    formula = (
        "θ_j / s for wavelengths above L / `low_freq_factor`, θ_j below L / `high_freq_factor`, between them "
        "a blend linear in L / wavelength"
    )
    source = "Llama 3.1, arXiv 2407.21783 and its released code"
    training = (
        "Llama 3: 800 billion tokens in six stages from 8,192 to 131,072 (arXiv 2407.21783, section 3.4.2)"
    )
    factor_is_ratio = False
    hf_types = ("llama3",)

    high_freq_factor: float = number(4.0, above=0.0)
    """Wavelengths below original window / this are kept; above low_freq_factor."""
    low_freq_factor: float = number(1.0, above=0.0)
    """Wavelengths above original window / this are divided by the factor."""

    @classmethod
    def candidates(cls, rope: RopeNumbers) -> Sequence[Candidate]:
        """The ratio of the windows, and as far from it as published models are."""
        return (
            Candidate(factor=rope.factor),
            Candidate(factor=2 * rope.factor, source="Llama 3.2: 32 for 16 times the window"),
            Candidate(factor=max(1.0, rope.factor / 2), source="Llama 3.1: 8 for 16 times the window"),
        )

    def check(self, rope: RopeNumbers) -> None:
        """The blend has a width."""
        low, high = self.low_freq_factor, self.high_freq_factor
        if high <= low:
            raise ConfigError(
                "extra_args.high_freq_factor",
                required="high_freq_factor above low_freq_factor (defaults 4 and 1)",
                given=f"{high:g} and {low:g}",
                fix="swap the two",
            )

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        numbers = rope.rotary_dim, rope.base, rope.factor, rope.original_window
        return inverse_frequencies(*numbers, self.low_freq_factor, self.high_freq_factor)

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """Both of its numbers must be there: published files always carry them."""
        window, factor = entries.window, entries.factor()
        original = entries.stated_original() or window
        extra = entries.among(cls.argument_names())
        for name in cls.argument_names():
            if name not in extra:
                raise unusable(name, "a number", None, "add it to rope_parameters (Llama 3.1: 1 and 4)")
        windows = {"original_window": original, "target_window": max(window, original)}
        return {**windows, "factor": factor, "extra_args": extra}
