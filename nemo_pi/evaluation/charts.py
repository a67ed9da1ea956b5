"""Charts as data: what a task wants drawn. The report draws them (evaluation/page) and tabulates them.

Models keep their colour and marker in every chart: `place` is a model's index in the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nemo_pi.evaluation.text_tables import MISSING, Table

ENLARGE_FROM, ENLARGE_BELOW = 2.0, 1.3
"""A second chart enlarges what lies within the second number times the smallest value, if the largest value
is more than the first number times it and some line stays within the chart throughout."""


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    """What stands beside it."""
    points: tuple[tuple[float, float], ...]
    """(x, y), ascending in x, all finite; at least one."""
    place: int
    """Colour and marker."""


@dataclass(frozen=True)
class LineChart:
    """Lines against a length, a position or a step."""

    title: str
    """What stands above it."""
    summary: str
    """How to read it; screen readers say it, too."""
    x_label: str
    """With the unit."""
    y_label: str
    """With the unit."""
    series: tuple[Series, ...]
    """At least one."""
    log_x: bool = True
    """Lengths that double are evenly spaced."""
    log_y_from: float = 4.0
    """The y axis turns logarithmic where the largest value is this many times the smallest, all positive."""
    limits: tuple[float, float] | None = None
    """Of the y axis; None: what the values take."""
    level: tuple[float, str] | None = None
    """A value to mark, and its name."""
    marks: tuple[tuple[float, str], ...] = ()
    """Places on the x axis to mark, and their names."""
    digits: str = ",.5g"
    """Format of a y value, as in f-strings."""

    def table(self) -> Table:
        """Every value, a line for each x."""
        found = sorted({x for line in self.series for x, _ in line.points})
        values = [dict(line.points) for line in self.series]
        rows = (
            (f"{x:,.6g}", *(format(own[x], self.digits) if x in own else MISSING for own in values))
            for x in found
        )
        return Table(self.title, (self.x_label, *(line.name for line in self.series)), tuple(rows))


@dataclass(frozen=True)
class Bar:
    """One bar."""

    name: str
    """What stands above it."""
    value: float
    """Finite, not negative."""
    text: str
    """The value as it is shown."""
    place: int
    """Colour."""
    error: float | None = None
    """How far a line over the bar's end reaches to either side; None: no line."""


@dataclass(frozen=True)
class BarChart:
    """Bars from zero, one below the other."""

    title: str
    """What stands above it."""
    summary: str
    """How to read it; screen readers say it, too."""
    x_label: str
    """With the unit."""
    bars: tuple[Bar, ...]
    """At least one."""
    level: tuple[float, str] | None = None
    """A value to mark, and its name."""

    def table(self) -> Table:
        """Every value."""
        rows = tuple((bar.name, bar.text) for bar in self.bars)
        return Table(self.title, ("", self.x_label), rows)


@dataclass(frozen=True)
class Panel:
    """The cells of one model."""

    name: str
    """What stands above it."""
    note: str
    """A few words below the name."""
    rows: tuple[str, ...]
    """Names of the lines, from the top."""
    columns: tuple[str, ...]
    """Names of the columns."""
    values: tuple[tuple[float | None, ...], ...]
    """Shares in [0, 1] by row, then column; None: not measured."""
    inside: int = 0
    """So many columns lie within the original window; a line stands after them. 0, or all: none."""


@dataclass(frozen=True)
class HeatMap:
    """Shares by row and column, a panel for each model."""

    title: str
    """What stands above it."""
    summary: str
    """How to read it; screen readers say it, too."""
    x_label: str
    """Of the columns, with the unit."""
    y_label: str
    """Of the rows."""
    panels: tuple[Panel, ...]
    """At least one."""

    def table(self) -> Table:
        """Every cell, in per cent: a line for each model and row."""
        columns = list(dict.fromkeys(name for panel in self.panels for name in panel.columns))
        rows = []
        for panel in self.panels:
            for row, values in zip(panel.rows, panel.values, strict=True):
                own = dict(zip(panel.columns, values, strict=True))
                cells = (own.get(name) for name in columns)
                shown = (MISSING if share is None else f"{share:.0%}" for share in cells)
                rows.append((f"{panel.name}, {row}", *shown))
        return Table(self.title, (f"model, {self.y_label}", *columns), tuple(rows))


Chart = LineChart | BarChart | HeatMap


class _Points(Protocol):
    @property
    def points(self) -> tuple[tuple[float, float], ...]: ...


L = TypeVar("L", bound=_Points)


def near_the_best(lines: Sequence[L]) -> tuple[list[L], tuple[float, float]]:
    """Return the lines that a second chart shows whole, if one is called for, and its limits."""
    values = [value for line in lines for _, value in line.points]
    top = ENLARGE_BELOW * min(values)
    near = [line for line in lines if max(y for _, y in line.points) <= top]
    if max(values) <= ENLARGE_FROM * min(values):
        near = []
    # Points of other lines count too: what the base model reaches in its own window is worth comparing with.
    return near, margins(min(values), max(value for value in values if value <= top))


def margins(low: float, high: float) -> tuple[float, float]:
    """Return limits of an axis with some room around the values, more of it above."""
    margin = max(0.08 * (high - low), 0.01 * high)
    return low - margin, high + 2 * margin
