"""Proportional RoPE (p-RoPE, arXiv 2410.06205): the fastest pairs turn as always, the others not at all.

Unlike in a partly rotated head (rotary_percent), the exponents count over the whole head: the pairs that turn
do so exactly as in plain RoPE. transformers' type of this name (Gemma 4) divides them by a factor as well.
"""

from __future__ import annotations

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
from nemo_pi.rope.methods.hf_rope import HfRope


def num_turning(head_dim: int, share: float) -> int:
    """Pairs of a head that turn: its share of them, rounded down as transformers does."""
    return int(share * head_dim // 2)


def inverse_frequencies(head_dim: int, base: float, factor: float, share: float) -> Tensor:
    """θ_j / s for the first pairs, 0 for those beyond the share; fp32 [head_dim / 2]."""
    turning = num_turning(head_dim, share)
    # Not a slice of the whole: the last powers of a vector round otherwise than the same powers within a
    # longer one, and transformers takes no more than it needs.
    turning_F = 1.0 / plain.wavelength_powers(head_dim, base, turning)
    still_F = torch.zeros(head_dim // 2 - turning, dtype=torch.float32)
    return torch.cat((turning_F, still_F)) / factor


@dataclass(frozen=True)
class Proportional(ScalingMethod):
    """p-RoPE, interpolated by the factor."""

    name = "proportional"
    also_called = ("p-rope", "p_rope", "prope")
    title = "proportional (p-RoPE, interpolated)"
    formula = "θ_j / s for the first `partial_rotary_factor` of the pairs, 0 for the others"
    source = "p-RoPE, arXiv 2410.06205; transformers' type of this name"
    training = "unknown: it is published for models that are pretrained with it (arXiv 2410.06205)"
    hf_types = ("proportional",)
    hf_states_original = False

    partial_rotary_factor: float = number(1.0, above=0.0, at_most=1.0)
    """Share of the pairs that turn, in (0, 1]; 1 is Position Interpolation."""

    @classmethod
    def candidates(cls, rope: RopeNumbers) -> Sequence[Candidate]:
        """The share that the paper trains with; a share of 1 is Position Interpolation."""
        return (Candidate({"partial_rotary_factor": 0.75}, source="arXiv 2410.06205"),)

    def check(self, rope: RopeNumbers) -> None:
        """Whole heads, of which one pair turns at least."""
        if rope.rotary_percent != 1.0:
            raise ConfigError(
                "rotary_percent",
                required=f"1 with `method` {self.name}: its own share says which pairs turn",
                given=rope.rotary_percent,
                fix="choose `method`: linear for a model that rotates a part of each head",
            )
        if num_turning(rope.head_dim, self.partial_rotary_factor) < 1:
            raise ConfigError(
                "extra_args.partial_rotary_factor",
                required=f"a share of {rope.num_frequencies} pairs that holds at least one",
                given=self.partial_rotary_factor,
                fix=f"choose {1 / rope.num_frequencies:g} or more",
            )

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        return inverse_frequencies(rope.head_dim, rope.base, rope.factor, self.partial_rotary_factor)

    def is_scaled(self, rope: RopeNumbers) -> bool:
        """Pairs that stand still act even where the windows are alike."""
        turning = num_turning(rope.head_dim, self.partial_rotary_factor)
        return rope.factor != 1.0 or turning < rope.num_frequencies

    def to_hf(self, rope: RopeNumbers) -> dict[str, Any]:
        """A factor of 1 is left out: readers take it for granted."""
        entries = super().to_hf(rope)
        if rope.factor == 1.0:
            del entries["factor"]
        return entries

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """One window is named, the extended one; the factor may be left out. Whole heads are rotated."""
        factor = entries.factor(optional=True) or 1.0
        original = entries.stated_original() or max(1, round(entries.window / factor))
        extra = entries.among(cls.argument_names())
        return {**entries.windows(original, factor), "rotary_percent": 1.0, "extra_args": extra}
