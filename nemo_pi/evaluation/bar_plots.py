"""Bar charts as a PNG: one panel below the other, each from zero and with its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.charts import BarChart
from nemo_pi.evaluation.style import COLOURS, INK, LABEL_SIZE, headline, new_figure, save

# Inches.
_WIDTH, _BAR, _TOP, _GAP, _RIGHT = 4.6, 0.27, 0.8, 0.62, 1.6
_LETTER = 0.083
"""Inches that a letter of a name takes at most."""


def plot_bars(charts: Sequence[BarChart], path: Path, *, title: str) -> Path | None:
    """Draw the charts, names on the left and values on the right; None without any.

    Args:
        charts: from top to bottom.
        path: PNG to write.
        title: what stands above them all.

    Raises:
        BackendUnavailableError: no matplotlib.
    """
    if not charts:
        return None
    left = 0.3 + _LETTER * max(len(bar.name) for chart in charts for bar in chart.bars)
    width = left + _WIDTH + _RIGHT
    height = _TOP + sum(_BAR * len(chart.bars) + _GAP for chart in charts)
    with new_figure(width, height) as figure:
        headline(figure, title, charts[0].summary)
        bottom = height - _TOP
        for chart in charts:
            tall = _BAR * len(chart.bars)
            bottom -= tall
            _draw(
                figure.add_axes((left / width, bottom / height, _WIDTH / width, tall / height)),
                chart,
            )
            bottom -= _GAP
        return save(figure, path)


def _draw(axes: Any, chart: BarChart) -> None:
    """Draw one chart, its first bar on top."""
    for row, bar in enumerate(chart.bars):
        colour = COLOURS[bar.place % len(COLOURS)]
        errors = {} if bar.error is None else {"xerr": bar.error, "ecolor": INK, "capsize": 2.5}
        axes.barh(row, bar.value, height=0.66, color=colour, error_kw={"elinewidth": 1.1}, **errors)
        axes.annotate(
            bar.text,
            xy=(1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=LABEL_SIZE,
            annotation_clip=False,
        )
    axes.set_ylim(len(chart.bars) - 0.5, -0.5)
    axes.set_yticks(range(len(chart.bars)), [bar.name for bar in chart.bars], fontsize=LABEL_SIZE)
    axes.grid(False, axis="y")
    ends = [bar.value + (bar.error or 0.0) for bar in chart.bars]
    axes.set_xlim(min(0.0, *(bar.value for bar in chart.bars)), 1.04 * max(0.0, *ends) or 1.0)
    axes.set_xlabel(chart.x_label)
