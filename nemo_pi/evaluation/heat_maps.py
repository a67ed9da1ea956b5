"""Passkey heat maps: how often a model retrieves the passkey, by document length and depth."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_pi.errors import DataError
from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.style import QUIET, headline, new_figure, save
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.text_tables import thin
from nemo_pi.units import plural

# Inches.
PANEL_HEIGHT, LEFT, RIGHT, BOTTOM, GAP_X, GAP_Y = 1.55, 0.75, 1.0, 0.6, 0.28, 0.8
PANEL_WIDTH = {1: 4.6, 2: 3.3, 3: 2.6}
"""By how many panels share a line."""
TITLE, ASKED = "Passkey retrieval by document length and depth", "Five digits under greedy decoding"
MOST_FRAMED_COLUMNS = 16
"""Above this many lengths, white lines between the cells would hide them."""


def plot_passkey(
    models: Sequence[Measured[PasskeyResult]], path: str | Path, *, title: str = TITLE, asked: str = ASKED
) -> Path:
    """Draw retrieval over length × depth, one panel per model, with a shared colour bar.

    Args:
        models: in the report's order.
        path: PNG to write.
        title: what stands above.
        asked: what a trial is, for the line below it.

    Raises:
        DataError: no model has passkey results. BackendUnavailableError: no matplotlib.
    """
    shown = [(model, model.result) for model in models if model.result is not None]
    if not shown:
        raise DataError(
            "plot", required="a model with passkey results", given="none", fix="evaluate before plotting"
        )
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    width = LEFT + columns * PANEL_WIDTH[columns] + (columns - 1) * GAP_X + RIGHT
    subtitle = textwrap.wrap(_subtitle(shown[0][1].grid, asked), int(width * 13.5))
    top = 0.95 + 0.17 * len(subtitle)
    height = top + lines * PANEL_HEIGHT + (lines - 1) * GAP_Y + BOTTOM
    with new_figure(width, height) as figure:
        headline(figure, title, "\n".join(subtitle))
        for i, (model, result) in enumerate(shown):
            line, column = divmod(i, columns)
            axes = _add_axes(figure, line, column, PANEL_WIDTH[columns], top)
            image = _heat_map(axes, model, result)
            if column == 0:
                axes.set_ylabel("depth")
            elif result.grid.depths == shown[i - 1][1].grid.depths:
                axes.set_yticklabels([])
            if i + columns >= len(shown):
                axes.set_xlabel("document length (tokens)")
        _colour_bar(figure, image, lines, top)
        return save(figure, path)


def _add_axes(figure: Any, line: int, column: int, panel_width: float, top: float) -> Any:
    width, height = figure.get_figwidth(), figure.get_figheight()
    left = LEFT + column * (panel_width + GAP_X)
    bottom = height - top - line * (PANEL_HEIGHT + GAP_Y) - PANEL_HEIGHT
    return figure.add_axes((left / width, bottom / height, panel_width / width, PANEL_HEIGHT / height))


def _heat_map(axes: Any, model: Measured[PasskeyResult], result: PasskeyResult) -> Any:
    grid = result.grid
    rates = [[100 * grid.rate(length, depth) for length in grid.lengths] for depth in grid.depths]
    image = axes.imshow(rates, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    _frame(axes, len(grid.lengths), len(grid.depths))
    ticks = [grid.lengths.index(length) for length in thin(grid.lengths, 4)]
    axes.set_xticks(ticks, [f"{grid.lengths[i]:,}" for i in ticks])
    axes.set_yticks(range(len(grid.depths)), [f"{depth:.0%}" for depth in grid.depths])
    axes.set_title(model.model, loc="left", fontsize=9.5, fontweight="bold", pad=16)
    k_max = f"k_max {result.k_max:,} tokens" if result.k_max else "k_max 0: none retrieved"
    axes.annotate(
        k_max, (0, 1), (0, 4), "axes fraction", textcoords="offset points", color=QUIET, fontsize=8.5
    )
    inside = sum(length <= model.original_window for length in grid.lengths)
    if 0 < inside < len(grid.lengths):
        # Dark below white, so that the line shows on every colour.
        axes.axvline(inside - 0.5, color="#222222", linewidth=2.4)
        axes.axvline(inside - 0.5, color="white", linestyle=(0, (3, 2)), linewidth=1.6)
    return image


def _frame(axes: Any, num_columns: int, num_lines: int) -> None:
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if num_columns <= MOST_FRAMED_COLUMNS:
        for x in range(1, num_columns):
            axes.axvline(x - 0.5, color="white", linewidth=0.8)
        for y in range(1, num_lines):
            axes.axhline(y - 0.5, color="white", linewidth=0.8)


def _colour_bar(figure: Any, image: Any, lines: int, top: float) -> None:
    width, height = figure.get_figwidth(), figure.get_figheight()
    block = lines * PANEL_HEIGHT + (lines - 1) * GAP_Y
    length = min(block, 2.4)
    bottom = height - top - (block + length) / 2
    bar = figure.add_axes(((width - RIGHT + 0.2) / width, bottom / height, 0.13 / width, length / height))
    figure.colorbar(image, cax=bar).set_label("trials retrieved (%)")
    bar.grid(False)


def _subtitle(grid: PasskeyGrid, asked: str) -> str:
    trials = plural(grid.num_trials, "trial")
    return (
        f"{asked}, {trials} in each cell; depth 0% is the "
        "beginning. Dashed: end of the original window. k_max: up to this length they are retrieved "
        "from the shallowest depth."
    )
