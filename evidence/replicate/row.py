"""A claim of a paper: how it is measured here, and when it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evidence.replicate.lab import Lab

Values = Mapping[str, float]
"""What was measured, by name."""
PASS, FAIL, DIFFERS, MISSING = "pass", "fail", "differs in small", "not measured"


@dataclass(frozen=True)
class InSmall:
    """What a small model shows of a claim that it does not show whole."""

    holds: Callable[[Values], bool]
    """The weaker criterion."""
    because: str
    """Why no more can be asked of it."""


@dataclass(frozen=True)
class Row:
    """One claim."""

    key: str
    """Its name in results.json."""
    source: str
    """Paper and table."""
    claim: str
    """In words."""
    published: str
    """The paper's figures."""
    measure: Callable[[Lab], Values]
    """Takes the figures from what was run; KeyError where that has not been run."""
    holds: Callable[[Values], bool]
    """The criterion."""
    criterion: str
    """The same in words."""
    full_size: str
    """How to measure it at the paper's size."""
    in_small: InSmall | None = None
    """None: it must hold whole."""


@dataclass(frozen=True)
class Verdict:
    """A row, measured."""

    row: Row
    """The claim."""
    values: Values
    """Empty where it was not measured."""
    word: str
    """PASS, FAIL, DIFFERS or MISSING."""
    earlier: str = ""
    """Date of the earlier run that it was measured in; empty: in this one."""

    @property
    def text(self) -> str:
        """The verdict with its reason."""
        if self.word == DIFFERS and self.row.in_small:
            return f"{DIFFERS}, because {self.row.in_small.because}"
        return self.word


def judge(row: Row, lab: Lab) -> Verdict:
    """Measure a claim and say whether it holds."""
    lab.dates.clear()
    try:
        values = dict(row.measure(lab))
    except KeyError:
        return Verdict(row, {}, MISSING)
    small = row.in_small and row.in_small.holds(values)
    word = PASS if row.holds(values) else DIFFERS if small else FAIL
    # min and max may pass over NaN: a broken measurement shows nothing.
    word = FAIL if any(map(math.isnan, values.values())) else word
    return Verdict(row, values, word, min(lab.dates, default=""))
