"""Numbers to places on a chart, ticks that read well, and room for the texts beside them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

TEXT = 13.0
"""Size of the charts' text in pixels."""
_WIDTH = 0.62
"""Width of a letter by its size: that of the widest common sans-serif, so that no label needs more."""


@dataclass(frozen=True)
class Scale:
    """An axis: values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    """Smallest value."""
    high: float
    """Largest value, above `low`."""
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    log: bool = False
    """Equal ratios take equal room; values are then positive."""

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (self._of(value) - self._of(self.low)) / (self._of(self.high) - self._of(self.low))
        return self.start + share * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies within the axis."""
        return self.low <= value <= self.high

    def _of(self, value: float) -> float:
        return math.log(value) if self.log else value


def nice_ticks(scale: Scale, gap: float) -> list[float]:
    """Return round values within a scale, at least `gap` pixels apart, as many as that allows."""
    room = max(1, int(abs(scale.end - scale.start) / gap))
    if scale.log:
        exponents = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            values = [step * 10.0**e for e in exponents for step in steps]
            values = [value for value in values if scale.holds(value)]
            if len(values) >= 2 and _far_enough(scale, values, gap):
                return values
        values = [10.0**e for e in exponents if scale.holds(10.0**e)]
        if values:
            return values[:: -(-len(values) // room)]
    return _round_steps(scale, room)


def kept_apart(
    scale: Scale, values: Sequence[float], texts: Sequence[str], width: float
) -> list[tuple[int, float]]:
    """Return the texts below an axis that do not touch, the last among them: (index, pixel of the middle).

    Args:
        scale: of the axis.
        values: ascending.
        texts: each is centred on its value, or as near to it as the drawing allows.
        width: of the drawing, in pixels.
    """
    kept: list[tuple[int, float]] = []
    left = math.inf
    for i in reversed(range(len(values))):
        half = text_width(texts[i]) / 2
        middle = min(max(scale(values[i]), half), width - half)
        if middle + half <= left - 8:
            kept.append((i, middle))
            left = middle - half
    return kept[::-1]


def text_width(text: str, size: float = TEXT) -> float:
    """Return the pixels that a text takes at most in a common sans-serif."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return size * (_WIDTH * (len(text) - wide) + 1.05 * wide)


def shortened(text: str, width: float, size: float = TEXT) -> str:
    """Return a text that fits, its middle left out where it is too long: names differ at both ends."""
    if text_width(text, size) <= width:
        return text
    keep = len(text) - 1
    while keep > 2:
        keep -= 1
        head, tail = text[: -(-keep // 2)], text[len(text) - keep // 2 :]
        if text_width(short := f"{head.rstrip()}…{tail.lstrip()}", size) <= width:
            return short
    return "…"


def tick_text(value: float) -> str:
    """Write a tick: digits as far as they say something."""
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return f"{value:,.6g}"


def _far_enough(scale: Scale, values: Sequence[float], gap: float) -> bool:
    places = [scale(value) for value in values]
    return all(abs(b - a) >= gap for a, b in pairwise(places))


def _round_steps(scale: Scale, room: int) -> list[float]:
    span = scale.high - scale.low
    exponent = math.floor(math.log10(span / room))
    sizes = (step * 10.0**e for e in (exponent, exponent + 1) for step in (1, 2, 2.5, 5))
    step = next((size for size in sizes if span / size <= room), 10.0 ** (exponent + 2))
    first = math.ceil(scale.low / step - 1e-9)
    count = math.floor(scale.high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]
