"""LongRoPE (arXiv 2402.13753): one searched factor per frequency, and two sets of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods import plain, yarn
from nemo_pi.rope.methods.arguments import MOST_ATTENTION_FACTOR, number, per_frequency
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.candidates import Candidate
from nemo_pi.rope.methods.hf_rope import HfRope
from nemo_pi.rope.validation import check_frequencies


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


@dataclass(frozen=True)
class LongRope(ScalingMethod):
    """LongRoPE; its lists come from a search for this very model, so there are no defaults."""

    name = "longrope"
    also_called = ("su",)
    formula = (
        "θ_j / λ_j, the λ of `short_factor` while at most L tokens are read, those of `long_factor` beyond"
    )
    cos_sin_times = "√(1 + ln s / ln L)"
    source = "LongRoPE, arXiv 2402.13753"
    training = (
        "a search for the factors (search_longrope.py), then 400 steps at 131,072 tokens and 600 more at "
        "262,144 (arXiv 2402.13753, section 3.3)"
    )
    depends_on_length = True
    hf_types = ("longrope", "su")

    attention_factor: float | None = number(above=0.0, at_most=MOST_ATTENTION_FACTOR)
    """Multiplied into cos and sin in place of the root. None: the root."""
    long_factor: tuple[float, ...] = per_frequency()
    """Divisor of each frequency beyond the original window; must be given."""
    short_factor: tuple[float, ...] = per_frequency()
    """Divisor of each frequency up to the original window; must be given."""

    @classmethod
    def candidates(cls, rope: RopeNumbers) -> Sequence[Candidate]:
        """Where a search for factors starts: short texts as they were, YaRN's frequencies beyond."""
        numbers = rope.rotary_dim, rope.base
        blended_F = yarn.inverse_frequencies(*numbers, rope.factor, rope.original_window)
        long_F = plain.inverse_frequencies(*numbers) / blended_F
        lists = {
            "short_factor": [1.0] * rope.num_frequencies,
            "long_factor": [round(float(value), 4) for value in long_F],
        }
        source = (
            "not searched: YaRN's divisors beyond the window, none within (arXiv 2402.13753 starts there)"
        )
        return (Candidate(lists, source=source),)

    def check(self, rope: RopeNumbers) -> None:
        """Both lists are there, and can be computed with."""
        for name in ("short_factor", "long_factor"):
            if getattr(self, name) is None:
                raise ConfigError(
                    f"extra_args.{name}",
                    required=f"a list of {rope.num_frequencies} numbers (half the rotary dimension)",
                    given="nothing",
                    fix=f"add {name}: [...] with the factors found for this model",
                )
            largest = max(getattr(self, name))
            check_frequencies(f"extra_args.{name}", rope.base, rope.rotary_dim, divisor=largest)
        if self.attention_factor is None and rope.original_window == 1 < rope.factor:
            raise ConfigError(
                "extra_args.attention_factor",
                required="a number where the original window is 1 token, whose logarithm is 0",
                given="nothing",
                fix="add attention_factor: 1.0, or correct `original_window`",
            )

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """See the function of this name."""
        lists = self.short_factor, self.long_factor
        return inverse_frequencies(rope.rotary_dim, rope.base, rope.original_window, *lists, seq_len)

    def slowest(self, rope: RopeNumbers) -> tuple[float, float]:
        """Of plain RoPE: `check` has divided it by the factors found."""
        return rope.base, 1.0

    def attention_scaling(self, rope: RopeNumbers, seq_len: int | None) -> float:
        """The explicit factor, else the root."""
        if self.attention_factor is not None:
            return self.attention_factor
        return attention_factor(rope.factor, rope.original_window)

    def is_scaled(self, rope: RopeNumbers) -> bool:
        """The lists act even where the windows are alike."""
        return True

    def to_hf_file(self, rope: RopeNumbers, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The original window beside rope_scaling, too: before transformers 5 the length from which on the
        long factors count is read there alone."""
        return {
            **super().to_hf_file(rope, entries),
            "original_max_position_embeddings": rope.original_window,
        }

    @classmethod
    def from_hf(cls, entries: HfRope) -> dict[str, Any]:
        """A factor sets the attention factor alone: one that is not the windows' ratio is kept as that."""
        window = entries.window
        original = entries.stated_original() or window
        extra = entries.among(cls.argument_names())
        if "attention_factor" not in extra:
            factor = entries.factor(optional=True)
            if factor is not None and factor != window / original and original > 1:
                extra["attention_factor"] = attention_factor(factor, original)
        return {"original_window": original, "target_window": window, "extra_args": extra}
