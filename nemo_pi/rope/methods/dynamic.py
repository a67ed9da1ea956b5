"""Dynamic NTK: the base grows with the length being read (arXiv 2309.00071, section 3.3).

Here the frequencies are a function of the length alone. transformers keeps state instead: it never shrinks
the base until a sequence shorter than the original window comes by. Keys cached under one base do not fit
another. To cache them before rotation helps in the first layer only: in those above, keys and values come
from what the old base let tokens attend to. So a cache must be rebuilt when the base changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nemo_pi.rope.methods import plain
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.hf_rope import HfRope


def scaled_base(rotary_dim: int, base: float, factor: float, original_window: int, seq_len: int) -> float:
    """b · (s·l/L - (s-1))^(D/(D-2)) at length l above L; b itself up to L."""
    # The formula would make the base smaller for texts that pretraining has read.
    length = max(seq_len, original_window)
    growth = factor * length / original_window - (factor - 1)
    return base * growth ** (rotary_dim / (rotary_dim - 2))


def inverse_frequencies(
    rotary_dim: int, base: float, factor: float, original_window: int, seq_len: int | None
) -> Tensor:
    """Plain frequencies of the base for seq_len tokens (None: at most the original window); fp32."""
    length = original_window if seq_len is None else seq_len
    return plain.inverse_frequencies(
        rotary_dim, scaled_base(rotary_dim, base, factor, original_window, length)
    )


@dataclass(frozen=True)
class Dynamic(ScalingMethod):
    """Dynamic NTK."""

    name = "dynamic"
    title = "dynamic (NTK by the length being read)"
    formula = "θ_j of the base b·(s·l/L − (s−1))^(D/(D−2)) while l > L tokens are read; θ_j up to L"
    source = "the same, section 3.3"
    training = "none: it is made for models as they are (arXiv 2309.00071, section 3.3)"
    depends_on_length = True
    min_rotary_dim = 4
    hf_types = ("dynamic",)
    hf_states_original = False

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        return inverse_frequencies(rope.rotary_dim, rope.base, rope.factor, rope.original_window, seq_len)

    def slowest(self, rope: RopeNumbers) -> tuple[float, float]:
        """Of the base at the target window."""
        numbers = rope.rotary_dim, rope.base, rope.factor, rope.original_window, rope.target_window
        return scaled_base(*numbers), 1.0

    def hf_window(self, rope: RopeNumbers) -> int:
        """The original window: readers compute from it."""
        return rope.original_window

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """max_position_embeddings is the original window, whatever else is stated."""
        entries.stated_original()  # refused where it is no number, though nobody computes from it
        return entries.windows(entries.window, entries.factor())
