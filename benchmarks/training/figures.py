"""Panels side by side over the length of a sample or window, in the house style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.style import (
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
    """Draws the panels in a row."""
    widths = [_LEFT + _WIDTH + label_width(panel.lines) for panel in panels]
    with new_figure(sum(widths), _HEIGHT) as figure:
        headline(figure, title, subtitle)
        for number, panel in enumerate(panels):
            left = sum(widths[:number]) + _LEFT
            box = (left / sum(widths), 0.6 / _HEIGHT, _WIDTH / sum(widths), (_HEIGHT - 1.75) / _HEIGHT)
            _draw(figure.add_axes(box), panel, xlabel)
        return save(figure, path)


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
