"""Lists of factors that a search moves between: where it starts, and how one list becomes another.

A factor is what a frequency is divided by. Factors are whole hundredths, the step of LongRoPE's search
(arXiv 2402.13753, section 3.2 and table 4): lists then compare exactly, on every rank and after a restart.
They never fall from one frequency to the next slower one, and lie within 1 and 1 + s.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_pi.rope.methods.registry import BUILT_IN
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import inverse_frequencies

HUNDREDTHS = 100
KNOWN = tuple(name for name, method in BUILT_IN.items() if method.starts_search)
"""Methods whose frequencies a search starts from."""

Factors = tuple[int, ...]
"""Hundredths, one for each frequency, fastest first."""


def as_numbers(factors: Factors) -> list[float]:
    """The factors as a YAML has them."""
    return [hundredths / HUNDREDTHS for hundredths in factors]


def as_rounded(numbers: Sequence[float]) -> Factors:
    """Factors of a YAML, to the nearest hundredth."""
    return tuple(round(HUNDREDTHS * number) for number in numbers)


def factors_of(extension: ContextExtension) -> Factors:
    """What a method divides the plain frequencies by at its target window, to the nearest hundredth."""
    plain = ContextExtension.unscaled(
        extension.original_window, extension.head_dim, extension.base, extension.rotary_percent
    )
    divided_F = inverse_frequencies(plain).double() / inverse_frequencies(extension, extension.target_window)
    return as_rounded(divided_F.tolist())


@dataclass(frozen=True)
class Space:
    """The lists that a search may visit, and its moves through them."""

    largest: int
    """Hundredths that no factor exceeds: 1 + s."""
    chance: float = 0.3
    """With which each factor changes, in both moves."""

    @classmethod
    def of(cls, factor: float) -> Space:
        """The space for a window that grows `factor` times."""
        return cls(round(HUNDREDTHS * (1 + factor)))

    def holds(self, factors: Factors) -> bool:
        """Whether a list keeps to the limits and never falls."""
        return list(factors) == sorted(factors) and factors[0] >= HUNDREDTHS and factors[-1] <= self.largest

    def mutated(self, factors: Factors, draws: random.Random) -> Factors:
        """Some factors drawn anew between their neighbours, which keeps the order."""
        new = list(factors)
        for place in range(len(new)):
            if draws.random() < self.chance:
                low = new[place - 1] if place else HUNDREDTHS
                high = new[place + 1] if place + 1 < len(new) else self.largest
                new[place] = draws.randint(low, high)
        return tuple(new)

    def crossed(self, first: Factors, second: Factors, draws: random.Random) -> Factors:
        """The first list with some factors of the second, where these stand between their new neighbours."""
        new = list(first)
        for place, other in enumerate(second):
            low = new[place - 1] if place else HUNDREDTHS
            high = first[place + 1] if place + 1 < len(new) else self.largest
            if draws.random() < self.chance and low <= other <= high:
                new[place] = other
        return tuple(new)
