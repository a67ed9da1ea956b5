"""How all plots look: colours that stay apart for colour-blind readers and in print, labels beside lines.

matplotlib is imported only when something is drawn, and without pyplot: no global list of figures, no
display, no settings left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.evaluation.spread import spread

INK, QUIET, FAINT, BAND = "#222222", "#6b6b6b", "#e4e4e4", "#f5f3ea"
# A dark grey for the first row, usually the base model, then hues near those of Okabe and Ito, darkened until
# bold text in them has a contrast of 3 to 1 with white. They stay apart for colour-blind readers, too.
COLOURS = ("#4d4d4d", "#b5850b", "#0072b2", "#c8401f", "#008f68", "#b8568f", "#6a3dc8", "#6b2d00")
MARKERS = ("s", "^", "o", "D", "v", "P", "X", "<")
LABEL_SIZE = 9.0
# Inches that a letter of a label takes, and a line of them.
LETTER, _ROW = 0.083, 0.2

_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Line:
    """One line of a plot; its colour and marker follow its place among the rows."""

    name: str
    """What stands beside its end."""
    points: tuple[tuple[float, float], ...]
    """(x, y) in the units of the axes."""
    colour: str
    """One of COLOURS."""
    marker: str
    """One of MARKERS."""

    def running_mean(self, reach: int) -> Line:
        """The line with every value replaced by the mean of itself and `reach` neighbours on each side."""
        y = [value for _, value in self.points]
        parts = [y[max(0, i - reach) : i + reach + 1] for i in range(len(y))]
        means = (sum(part) / len(part) for part in parts)
        return replace(self, points=tuple((x, mean) for (x, _), mean in zip(self.points, means, strict=True)))


def as_line(index: int, name: str, points: Sequence[tuple[float, float]]) -> Line:
    """Return the line of the row with this index."""
    return Line(name, tuple(points), COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Any]:
    """Give an empty matplotlib figure of this size in inches, within our settings.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailableError(
            "plots",
            required="matplotlib",
            given=f"none ({error})",
            fix="pip install matplotlib, or write the report without plots",
        ) from error
    with matplotlib.rc_context(_SETTINGS):
        yield Figure(figsize=(width, height), dpi=160)


def save(figure: Any, path: str | Path) -> Path:
    """Write the figure as a PNG with the Agg renderer and return its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without matplotlib's version in it, the same results give the same bytes.
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
    return path


def headline(figure: Any, title: str, subtitle: str) -> None:
    """Write a bold title and quieter lines below it, at the left edge of the figure."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    figure.text(0.15 / width, 1 - 0.13 / height, title, va="top", fontsize=12.5, fontweight="bold")
    figure.text(0.15 / width, 1 - 0.42 / height, subtitle, va="top", fontsize=9, color=QUIET, linespacing=1.3)


def draw_lines(
    axes: Any,
    lines: Sequence[Line],
    *,
    markers: bool = True,
    alpha: float = 1.0,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> None:
    """Draw the lines; where all of a line lies within these values, its markers may reach over the frame."""
    for line in lines:
        x, y = zip(*line.points, strict=True)
        axes.plot(
            x,
            y,
            color=line.colour,
            marker=line.marker if markers else None,
            markeredgecolor="white",
            markeredgewidth=0.8,
            alpha=alpha,
            clip_on=not within[0] <= min(y) <= max(y) <= within[1],
            zorder=3,
        )


def logarithmic_values(axes: Any, decades: float) -> None:
    """Make the y axis logarithmic, labelled at 1, 2, 5, 10, … or, over many decades, at powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def tick_text(value: float) -> str:
    """Write a tick of a logarithmic axis in full, large powers of ten as such."""
    return f"{value:,.6g}" if value < 99_999 else f"$10^{{{math.log10(value):.3g}}}$"


def label_width(lines: Sequence[Line]) -> float:
    """Return how many inches the longest label beside a line's end takes."""
    return LETTER * max(len(line.name) for line in lines) + 0.25


def label_ends(axes: Any, lines: Sequence[Line], gap: float = 0.062) -> None:
    """Write each line's name right of the axes at the height of its end, moved apart where names would touch.

    Args:
        axes: with final limits and scales.
        lines: their colours are the labels' colours.
        gap: least distance between labels, as a share of the height of the axes.
    """
    axes.autoscale_view()  # matplotlib puts it off until it draws, and the limits are needed now
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    ends = [tuple(map(float, to_axes(line.points[-1]))) for line in lines]
    for line, end, place in zip(lines, ends, spread([y for _, y in ends], gap), strict=True):
        axes.annotate(
            line.name,
            xy=end,
            xytext=(1.045, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=line.colour,
            va="center",
            fontweight="bold",
            fontsize=LABEL_SIZE,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.colour,
                "lw": 0.8,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 5,
            },
        )


def label_inside(axes: Any, lines: Sequence[Line]) -> None:
    """Write each line's name above its end, within the axes, and above names that it would touch.

    Args:
        axes: with final limits and scales.
        lines: their colours are the labels' colours.
    """
    axes.autoscale_view()
    to_axes = (axes.transData + axes.transAxes.inverted()).transform
    width, height = axes.get_window_extent().size / axes.figure.dpi
    row = _ROW / height
    taken: list[tuple[float, float, float]] = []
    ends = [tuple(map(float, to_axes(line.points[-1]))) for line in lines]
    for (x, y), line in sorted(zip(ends, lines, strict=True), key=lambda end: end[0][1]):
        share = LETTER * len(line.name) / width
        right = min(max(x, share + 0.01), 0.99)
        bottom = y + 0.1 / height
        for left_edge, right_edge, below in taken:
            if left_edge < right and right - share < right_edge and bottom < below + row:
                bottom = below + row
        taken.append((right - share, right, bottom))
        axes.annotate(
            line.name,
            xy=(right, min(bottom, 1 - row)),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            color=line.colour,
            fontweight="bold",
            fontsize=LABEL_SIZE,
        )
