"""A plot of how often each relative distance is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_pi.errors import DataError
from nemo_pi.evaluation.style import (
    QUIET,
    as_line,
    draw_lines,
    headline,
    label_ends,
    label_width,
    logarithmic_values,
    new_figure,
    save,
)

MOST_POINTS = 300
"""Distances are averaged in this many groups at most."""


def plot_coverage(
    pairs: Mapping[str, NDArray[np.int64]], path: str | Path, *, original_window: int, subtitle: str
) -> Path:
    """Draw the pairs of tokens at each distance, a line for each name, and where the original window ends.

    Entry 0 is left out. Neighbouring distances are averaged; where none of a group was seen, the line breaks.

    Raises:
        DataError: nothing was counted. BackendUnavailableError: no matplotlib.
    """
    if not pairs or not all(counts[1:].any() for counts in pairs.values()):
        raise DataError("plot", required="pairs of tokens", given="none", fix="count some samples first")
    lines = [as_line(i + 1, name, _means(counts)) for i, (name, counts) in enumerate(pairs.items())]
    values = [y for line in lines for _, y in line.points if y > 0]
    with new_figure(6.9 + label_width(lines), 4.2) as figure:
        headline(figure, "Relative distances trained", subtitle)
        width, height = figure.get_figwidth(), figure.get_figheight()
        axes: Any = figure.add_axes((0.95 / width, 0.6 / height, 5.6 / width, (height - 1.5) / height))
        target = max(len(counts) for counts in pairs.values())
        axes.set_xlim(0, target)
        axes.set_xlabel("distance (positions)")
        axes.set_ylabel("pairs of tokens at a distance")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        logarithmic_values(axes, decades=3)
        axes.set_ylim(min(values) / 2, max(values) * 2)
        axes.axvline(original_window, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
        axes.annotate(
            f"original window: {original_window:,}",
            xy=(original_window, 0.985),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            color=QUIET,
            fontsize=8.5,
        )
        draw_lines(axes, lines, markers=False)
        label_ends(axes, lines)
        return save(figure, path)


def _means(counts: NDArray[np.int64]) -> list[tuple[float, float]]:
    """(middle distance, mean count) of groups of neighbouring distances; nan where none was seen."""
    groups = np.array_split(np.arange(1, len(counts)), min(MOST_POINTS, len(counts) - 1))
    means = [(float(group.mean()), float(counts[group].mean())) for group in groups]
    # A line has to end somewhere to be labelled.
    return [(x, y if y > 0 or i == len(means) - 1 else float("nan")) for i, (x, y) in enumerate(means)]
