"""Bar charts as a PNG: one panel below the other, each from zero and with its own scale."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.charts import Bar, BarChart
from nemo_pi.evaluation.style import COLOURS, INK, LABEL_SIZE, LETTER, QUIET, headline, new_figure, save

# Inches; _LINE is a line of text, _MARK the name of a level above its panel.
_WIDTH, _LEAST, _ROW, _LINE, _TOP, _GAP, _MARK = 4.6, 6.6, 0.27, 0.17, 0.62, 0.62, 0.2
_NAME_COLUMNS = 36
"""Letters of a line of a name."""


def plot_bars(charts: Sequence[BarChart], path: Path, *, title: str) -> Path | None:
    """Draw the charts, names on the left and values on the right; None without any bar.

    Args:
        charts: from top to bottom; the first one's summary stands above them all.
        path: PNG to write.
        title: what stands above that.

    Raises:
        BackendUnavailableError: no matplotlib.
    """
    charts = [chart for chart in charts if chart.bars]
    if not charts:
        return None
    bars = [bar for chart in charts for bar in chart.bars]
    left = _text_width(line for bar in bars for line in _lines(bar))
    right = _text_width(bar.text for bar in bars)
    width = max(_LEAST, left + _WIDTH + right)
    summary = textwrap.wrap(charts[0].summary, int(width * 13.5))
    top = _TOP + _LINE * (len(summary) - 1)
    height = top + sum(_above(chart) + _tall(chart) + _GAP for chart in charts)
    with new_figure(width, height) as figure:
        headline(figure, title, "\n".join(summary))
        bottom = height - top
        for chart in charts:
            tall = _tall(chart)
            bottom -= _above(chart) + tall
            area = (left / width, bottom / height, (width - left - right) / width, tall / height)
            _draw(figure.add_axes(area), chart)
            bottom -= _GAP
        return save(figure, path)


def _text_width(texts: Iterable[str]) -> float:
    return LETTER * max(map(len, texts)) + 0.3


def _lines(bar: Bar) -> list[str]:
    return textwrap.wrap(bar.name, _NAME_COLUMNS) or [""]


def _row(chart: BarChart) -> float:
    return _ROW + _LINE * (max(len(_lines(bar)) for bar in chart.bars) - 1)


def _tall(chart: BarChart) -> float:
    return _row(chart) * len(chart.bars)


def _above(chart: BarChart) -> float:
    return 0.18 + (_MARK if chart.level else 0.0)


def _draw(axes: Any, chart: BarChart) -> None:
    """Draw one chart, its first bar on top."""
    for row, bar in enumerate(chart.bars):
        colour = COLOURS[bar.place % len(COLOURS)]
        errors = {} if bar.error is None else {"xerr": bar.error, "ecolor": INK, "capsize": 2.5}
        thick = 0.18 / _row(chart)
        axes.barh(row, bar.value, height=thick, color=colour, error_kw={"elinewidth": 1.1}, **errors)
        axes.annotate(
            bar.text,
            xy=(1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=LABEL_SIZE,
            annotation_clip=False,
        )
    axes.set_ylim(len(chart.bars) - 0.5, -0.5)
    names = ["\n".join(_lines(bar)) for bar in chart.bars]
    axes.set_yticks(range(len(names)), names, fontsize=LABEL_SIZE)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    ends = [bar.value + (bar.error or 0.0) for bar in chart.bars]
    longest = max(0.0, *ends, chart.level[0] if chart.level else 0.0)
    axes.set_xlim(min(0.0, *(bar.value for bar in chart.bars)), 1.04 * longest or 1.0)
    axes.set_xlabel(chart.x_label)
    axes.locator_params(axis="x", nbins=6)
    if chart.level:
        _mark(axes, *chart.level)


def _mark(axes: Any, value: float, name: str) -> None:
    axes.axvline(value, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2)
    on_the_right = value > sum(axes.get_xlim()) / 2
    axes.annotate(
        name,
        xy=(value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        color=QUIET,
        fontsize=8.5,
        annotation_clip=False,
    )
