"""NTK-aware scaling with a fixed factor: a larger base (arXiv 2309.00071, section 3.1, equation 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nemo_pi.rope.methods import plain
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.candidates import Candidate


def scaled_base(rotary_dim: int, base: float, factor: float) -> float:
    """b' = b · s^(D/(D-2)): the lowest frequency is divided by s, the highest stays as it is."""
    return base * factor ** (rotary_dim / (rotary_dim - 2))


def inverse_frequencies(rotary_dim: int, base: float, factor: float) -> Tensor:
    """Plain frequencies of the scaled base; fp32 [rotary_dim / 2]. rotary_dim must exceed 2."""
    return plain.inverse_frequencies(rotary_dim, scaled_base(rotary_dim, base, factor))


@dataclass(frozen=True)
class Ntk(ScalingMethod):
    """Static NTK. Hugging Face has no type for it; plain RoPE with the larger base computes the same."""

    name = "ntk"
    title = "ntk (NTK-aware, static)"
    formula = "θ_j of the base b·s^(D/(D−2))"
    source = "arXiv 2309.00071, section 3.1, equation 16"
    training = (
        "none for small factors; fine-tuned it stays behind Position Interpolation, as some pairs turn "
        "beyond their trained angles (arXiv 2309.00071, section 3.1)"
    )
    min_rotary_dim = 4
    hf_types = ()  # it is written as another method's and read back from the record
    starts_search = True

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        return inverse_frequencies(rope.rotary_dim, rope.base, rope.factor)

    @classmethod
    def candidates(cls, rope: RopeNumbers) -> Sequence[Candidate]:
        """The ratio of the windows, and factors above it: by s it reaches less than s times the window."""
        above = "a factor above the ratio, as arXiv 2309.00071, section 3.1, recommends"
        return Candidate(), Candidate(stretch=2.0, source=above), Candidate(stretch=1.5, source=above)

    def slowest(self, rope: RopeNumbers) -> tuple[float, float]:
        """Of the scaled base."""
        return scaled_base(rope.rotary_dim, rope.base, rope.factor), 1.0

    def to_hf(self, rope: RopeNumbers) -> dict[str, Any]:
        """Plain RoPE of the scaled base."""
        base = scaled_base(rope.rotary_dim, rope.base, rope.factor)
        return plain.Plain().to_hf(replace(rope, base=base))
