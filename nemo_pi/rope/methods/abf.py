"""A base chosen freely (adjusted base frequency): plain RoPE that turns more slowly (arXiv 2309.16039).

How large it must be is known as a lower bound only: a similar token is preferred to a random one at distance
m while Σ_j cos(m·θ_j) is positive, which it stays up to L from about b = 0.0424·L^1.628 (arXiv 2405.14591,
"Base of RoPE Bounds Context Length": a power law fitted to the bounds, within a factor of two of them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods import plain
from nemo_pi.rope.methods.arguments import number
from nemo_pi.rope.methods.base import RopeNumbers, ScalingMethod
from nemo_pi.rope.methods.candidates import Candidate
from nemo_pi.rope.validation import check_frequencies


def least_base(target_window: int) -> float:
    """0.0424·L^1.628: about the smallest base that reads `target_window` tokens (arXiv 2405.14591)."""
    return 0.0424 * float(target_window) ** 1.628


def _three_digits(base: float) -> float:
    """Rounded up: rounded down, it would miss the bound."""
    unit = 10.0 ** (math.floor(math.log10(base)) - 2)
    return math.ceil(base / unit) * unit


@dataclass(frozen=True)
class Abf(ScalingMethod):
    """Adjusted base frequency. Hugging Face has no type for it; plain RoPE with this base is the same."""

    name = "abf"
    also_called = ("adjusted_base", "rope_theta", "theta")
    title = "abf (a base chosen freely)"
    formula = "θ_j of the base `base`, whatever s"
    source = "arXiv 2309.16039, section 2"
    training = (
        "400 billion tokens from 4,096 to 32,768 (arXiv 2309.16039, section 2); ProLong: 20 billion from "
        "8,192 to 65,536, 20 billion more to 524,288 (arXiv 2410.02660)"
    )

    base: float = number(above=1.0)
    """The base to compute with, in place of the checkpoint's; must be given."""

    @classmethod
    def candidates(cls, rope: RopeNumbers) -> Sequence[Candidate]:
        """The known lower bound and bases above it; published ones lie from 0.4 to 10 times the bound."""
        bound = least_base(rope.target_window)
        bases = {times: _three_digits(times * bound) for times in (3, 1, 10)}
        found = [
            Candidate({"base": base}, source=f"about {times} × 0.0424·L^1.628 (arXiv 2405.14591)")
            for times, base in bases.items()
            if base > rope.base
        ]
        return found or [Candidate({"base": 4 * rope.base}, source="the checkpoint's base reaches the bound")]

    def check(self, rope: RopeNumbers) -> None:
        """The base is there: no formula gives one."""
        if self.base is None:
            least = max(least_base(rope.target_window), rope.base)
            raise ConfigError(
                "extra_args.base",
                required="the base to compute with (a number above 1)",
                given="nothing",
                fix=f"'`extra_args`={{base: {_three_digits(least)!r}}}', or a larger base",
            )
        check_frequencies("extra_args.base", self.base, rope.rotary_dim)

    def inverse_frequencies(self, rope: RopeNumbers, seq_len: int | None) -> Tensor:
        """Plain frequencies of the chosen base."""
        return plain.inverse_frequencies(rope.rotary_dim, self.base)

    def slowest(self, rope: RopeNumbers) -> tuple[float, float]:
        """Of the chosen base; the factor does not enter."""
        return self.base, 1.0

    def is_scaled(self, rope: RopeNumbers) -> bool:
        """The factor does not enter; the checkpoint's own base changes nothing."""
        return self.base != rope.base

    def plan_notes(self, rope: RopeNumbers) -> list[tuple[str, str]]:
        """Whether the base reaches the bound for the target window."""
        least = least_base(rope.target_window)
        verdict = "reaches" if self.base >= least else "BELOW"
        return [("bound", f"{verdict} {least:.3g} = 0.0424·L^1.628 for the target window (arXiv 2405.14591)")]

    def to_hf(self, rope: RopeNumbers) -> dict[str, Any]:
        """Plain RoPE of the chosen base."""
        return plain.Plain().to_hf(replace(rope, base=self.base))
