"""Position Interpolation (arXiv 2306.15595, equation 4): position m becomes m / s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nemo_pi.rope.methods import plain
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.hf_rope import HfRope


def inverse_frequencies(rotary_dim: int, base: float, factor: float) -> Tensor:
    """θ_j / s; fp32 [rotary_dim / 2].

    Scaling frequencies instead of positions keeps positions whole; by 1 it is plain RoPE bit for bit.
    """
    return plain.inverse_frequencies(rotary_dim, base) / factor


@dataclass(frozen=True)
class Linear(ScalingMethod):
    """Position Interpolation."""

    name = "linear"
    also_called = ("pi", "interpolation", "position_interpolation")
    title = "linear (Position Interpolation)"
    formula = "θ_j / s, so that position m becomes m / s"
    source = "Position Interpolation, arXiv 2306.15595, equation 4"
    training = (
        "1,000 steps of 64 to 128 samples as long as the target for 4 to 16 times the window, most of the "
        "gain within 200 (arXiv 2306.15595, section 3); untrained it is poor"
    )
    hf_types = ("linear",)
    starts_search = True
    hf_states_original = False

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        return inverse_frequencies(rope.rotary_dim, rope.base, rope.factor)

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """One window is named: the extended one, unless max_sequence_length (Vicuna) denies it."""
        original, window, factor = entries.stated_original(), entries.window, entries.factor()
        assert factor is not None  # it is not optional
        if original is None:
            is_original = entries.config.get("max_sequence_length") == window * factor and factor != 1
            original = window if is_original else max(1, round(window / factor))
        return entries.windows(original, factor)
