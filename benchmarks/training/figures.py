"""Panels side by side in the house style: lines over the length of a sample or window, or bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.style import (
    COLOURS,
    Line,
    draw_lines,
    headline,
    label_ends,
    label_width,
    logarithmic_values,
    new_figure,
    save,
)

_HEIGHT, _WIDTH, _LEFT = 3.9, 3.4, 0.85


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    """What it shows, with units."""
    lines: Sequence[Line]
    """Each with at least one point; x in tokens."""
    logarithmic: bool = False
    """Whether y is."""


def draw_panels(path: Path, title: str, subtitle: str, xlabel: str, panels: Sequence[Panel]) -> Path:
    """Draws the panels in a row; those in which nobody was measured are left out."""
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        title = f"{title}: nothing was measured"
    widths = [_LEFT + _WIDTH + label_width(panel.lines) for panel in panels]
    with new_figure(sum(widths) or _WIDTH, _HEIGHT) as figure:
        headline(figure, title, subtitle)
        for number, panel in enumerate(panels):
            left = sum(widths[:number]) + _LEFT
            box = (left / sum(widths), 0.6 / _HEIGHT, _WIDTH / sum(widths), (_HEIGHT - 1.75) / _HEIGHT)
            _draw(figure.add_axes(box), panel, xlabel)
        return save(figure, path)


@dataclass(frozen=True)
class Bars:
    """One pair of axes with horizontal bars: a group of them for each label."""

    title: str
    """What it shows, with units."""
    labels: Sequence[str]
    """Of the groups, from above."""
    values: Mapping[str, Sequence[float]]
    """Series → a value for each label."""


def draw_bars(path: Path, title: str, subtitle: str, panels: Sequence[Bars]) -> Path:
    """Draws the panels in a row, the values written at the ends of their bars."""
    most = max((len(panel.labels) * (len(panel.values) + 1) for panel in panels), default=1)
    lefts = [0.3 + 0.075 * max(len(label) for label in panel.labels) for panel in panels]
    width, height = sum(lefts) + len(panels) * (_WIDTH + 0.5), 1.5 + 0.2 * most
    with new_figure(width, height) as figure:
        headline(figure, title, subtitle)
        for number, (panel, left) in enumerate(zip(panels, lefts, strict=True)):
            start = sum(lefts[:number]) + number * (_WIDTH + 0.5) + left
            box = (start / width, 0.3 / height, _WIDTH / width, (height - 1.35) / height)
            _draw_bars(figure.add_axes(box), panel)
        return save(figure, path)


def _draw_bars(axes: Any, panel: Bars) -> None:
    thick = 1 / (len(panel.values) + 1)
    for number, (name, values) in enumerate(panel.values.items()):
        places = [place + number * thick for place in range(len(panel.labels))]
        bars = axes.barh(places, values, thick, label=name, color=COLOURS[(number + 2) % len(COLOURS)])
        axes.bar_label(bars, [_figures(value) for value in values], padding=2, fontsize=7.5)
    middle = thick * (len(panel.values) - 1) / 2
    axes.set_yticks([place + middle for place in range(len(panel.labels))], panel.labels)
    axes.invert_yaxis()
    axes.set_xlim(right=1.2 * max(max(values) for values in panel.values.values()) or 1.0)
    several = len(panel.values) > 1
    # A long title would run into the legend: it stands above it.
    axes.set_title(panel.title, fontsize=9.5, loc="left", pad=24 if several else None)
    if several:
        axes.legend(fontsize=7.5, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(panel.values))


def _figures(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _draw(axes: Any, panel: Panel, xlabel: str) -> None:
    lengths = sorted({int(x) for line in panel.lines for x, _ in line.points})
    axes.set_xscale("log", base=2)
    axes.set_xlim(lengths[0] / 1.12, lengths[-1] * 1.12)
    shown = lengths[:: -(-len(lengths) // 6)]
    axes.set_xticks(shown, [_short(length) for length in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(xlabel)
    axes.set_title(panel.title, fontsize=9.5, loc="left")
    draw_lines(axes, panel.lines)
    if panel.logarithmic:
        logarithmic_values(axes, decades=2)
    else:
        axes.set_ylim(bottom=0)
    label_ends(axes, panel.lines)


def _short(tokens: int) -> str:
    """Tokens in powers of 1,024 where that is exact: 4k, 1M."""
    for unit, sign in ((2**20, "M"), (2**10, "k")):
        if tokens % unit == 0:
            return f"{tokens // unit}{sign}"
    return f"{tokens:,}"
