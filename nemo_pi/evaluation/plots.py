"""Line plots of the results: perplexity against context length, and training losses (see `heat_maps.py`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_pi.errors import DataError
from nemo_pi.evaluation.charts import margins, near_the_best
from nemo_pi.evaluation.perplexity import PerplexityResult, finite_values
from nemo_pi.evaluation.style import (
    BAND,
    QUIET,
    Line,
    as_line,
    draw_lines,
    headline,
    label_ends,
    label_inside,
    label_width,
    logarithmic_values,
    new_figure,
    save,
)
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.text_tables import thin
from nemo_pi.units import plural

LOG_FROM = 4.0
"""The perplexity axis turns logarithmic where the largest value is this many times the smallest."""


def plot_perplexity(models: Sequence[Measured[PerplexityResult]], path: str | Path) -> Path:
    """Draw perplexity against context length, one line per model, and the original window.

    Where a few lines leave no room to tell the others apart, a second panel enlarges those. Infinite and
    undefined perplexities are left out of their line.

    Raises:
        DataError: no model has a finite perplexity. BackendUnavailableError: no matplotlib.
    """
    lines = [as_line(i, model.model, finite_values(model.result)) for i, model in enumerate(models)]
    lines = [line for line in lines if line.points]
    _require(bool(lines), "a model with finite perplexities")
    near, limits = near_the_best(lines)
    with new_figure((9.4 if near else 6.6) + label_width(near or lines), 4.6) as figure:
        headline(figure, "Perplexity by context length", _perplexity_subtitle(models))
        if near:
            overview, axes = _add_axes(figure, 0.85, 4.2), _add_axes(figure, 5.7, 3.55)
            _perplexity_axes(overview, models, lines, _limits(lines))
            overview.set_ylabel("perplexity")
            overview.axhspan(*limits, color=BAND, zorder=0)
            overview.set_title("all", loc="left", fontsize=9.5, color=QUIET)
            label_inside(overview, [line for line in lines if line not in near])
            axes.set_facecolor(BAND)
            axes.set_title("the shaded band, enlarged", loc="left", fontsize=9.5, color=QUIET)
        else:
            axes, limits = _add_axes(figure, 0.85, 5.6), _limits(lines)
            axes.set_ylabel("perplexity")
        _perplexity_axes(axes, models, lines, limits)
        label_ends(axes, near or lines)
        return save(figure, path)


def plot_losses(curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path) -> Path:
    """Draw training losses and their running means: by a run's name, its (step, nats per token) pairs.

    Raises:
        DataError: no finite loss. BackendUnavailableError: no matplotlib.
    """
    lines = [
        as_line(i + 1, name, [(x, y) for x, y in points if math.isfinite(y)])
        for i, (name, points) in enumerate(curves.items())
    ]
    lines = [line for line in lines if line.points]
    _require(bool(lines), "a run with finite losses")
    smooth = [line.running_mean(max(1, len(line.points) // 30)) for line in lines]
    with new_figure(6.6 + label_width(lines), 4.2) as figure:
        headline(figure, "Training loss", "cross-entropy of each step's global batch, and its running mean")
        axes = _add_axes(figure, 0.85, 5.6)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per token)")
        steps = [x for line in lines for x, _ in line.points]
        axes.set_xlim(min(steps), max(steps) + (min(steps) == max(steps)))
        draw_lines(axes, lines, markers=False, alpha=0.25)
        draw_lines(axes, smooth, markers=False)
        label_ends(axes, smooth)
        return save(figure, path)


def _add_axes(figure: Any, left: float, width: float) -> Any:
    """Add axes below the headline; sizes in inches."""
    full_width, height = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes((left / full_width, 0.58 / height, width / full_width, (height - 1.5) / height))


def _perplexity_axes(
    axes: Any,
    models: Sequence[Measured[PerplexityResult]],
    lines: Sequence[Line],
    limits: tuple[float, float],
) -> None:
    """Draw the lines, as far as they lie within the limits of the y axis."""
    lengths = sorted({int(length) for line in lines for length, _ in line.points})
    axes.set_xscale("log", base=2)
    axes.set_xlim(lengths[0] / 1.12, lengths[-1] * 1.04)
    ticks = thin(lengths, 5)
    axes.set_xticks(ticks, [f"{length:,}" for length in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("context length (tokens)")
    if limits[1] >= LOG_FROM * limits[0]:
        logarithmic_values(axes, decades=math.log10(limits[1] / limits[0]))
    axes.set_ylim(limits)
    _mark_windows(axes, models)
    draw_lines(axes, lines, within=limits)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    values = [value for line in lines for _, value in line.points]
    low, high = min(values), max(values)
    if high < LOG_FROM * low:
        return margins(low, high)
    # On a logarithmic axis a margin is a ratio.
    margin = (high / low) ** 0.06
    return low / margin, high * margin**2


def _mark_windows(axes: Any, models: Sequence[Measured[PerplexityResult]]) -> None:
    low, high = axes.get_xlim()
    for window in sorted({m.original_window for m in models if low <= m.original_window <= high}):
        axes.axvline(window, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
        left = window > math.sqrt(low * high)
        axes.annotate(
            f"original window\n{window:,} tokens",
            xy=(window, 0.985),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if left else 5, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=QUIET,
            fontsize=8.5,
        )


def _perplexity_subtitle(models: Sequence[Measured[PerplexityResult]]) -> str:
    protocols = [model.result.protocol for model in models if model.result]
    facts = {(protocol.get("stride_tokens"), protocol.get("num_scored_tokens")) for protocol in protocols}
    stride, scored = facts.pop()
    if facts or stride is None or scored is None:  # several protocols, or one of version 0.1
        return "sliding window"
    tokens = plural(scored, "held-out token")
    return f"sliding window, stride {plural(stride, 'token')}; the same {tokens} at every length"


def _require(condition: bool, required: str) -> None:
    if not condition:
        raise DataError("plot", required=required, given="none", fix="evaluate before plotting")
