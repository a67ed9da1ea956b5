"""Scores against length in tokens, one line a model: what tasks beside perplexity and pass keys draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.style import (
    QUIET,
    as_line,
    draw_lines,
    headline,
    label_ends,
    label_width,
    new_figure,
    save,
)
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.text_tables import thin

# Inches.
_LEFT, _WIDTH, _HEIGHT, _TOP, _BOTTOM = 0.85, 5.6, 4.4, 0.92, 0.58


def plot_by_length(
    models: Sequence[Measured[Any]],
    points: Sequence[Sequence[tuple[float, float]]],
    path: Path,
    *,
    title: str,
    subtitle: str,
    y_label: str = "score (%)",
    limits: tuple[float, float] | None = (-3.0, 103.0),
    level: float | None = None,
) -> Path | None:
    """Draw one line for each model that has points; None without any.

    Args:
        models: in the report's order, which gives them their colours.
        points: (tokens, value) of each model.
        path: PNG to write.
        title: what stands above.
        subtitle: how it was measured.
        y_label: of the values.
        limits: of the y axis; None for what the values take.
        level: a value to mark by a dashed line.

    Raises:
        BackendUnavailableError: no matplotlib.
    """
    lines = [as_line(i, model.model, own) for i, (model, own) in enumerate(zip(models, points, strict=True))]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    width = _LEFT + _WIDTH + label_width(lines)
    with new_figure(width, _HEIGHT) as figure:
        headline(figure, title, subtitle)
        area = (_LEFT / width, _BOTTOM / _HEIGHT, _WIDTH / width, (_HEIGHT - _TOP - _BOTTOM) / _HEIGHT)
        axes = figure.add_axes(area)
        lengths = sorted({int(x) for line in lines for x, _ in line.points})
        axes.set_xscale("log", base=2)
        axes.set_xlim(lengths[0] / 1.12, lengths[-1] * 1.04 + (len(lengths) == 1) * lengths[0] * 0.12)
        ticks = thin(lengths, 5)
        axes.set_xticks(ticks, [f"{length:,}" for length in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("length (tokens)")
        axes.set_ylabel(y_label)
        if limits is not None:
            axes.set_ylim(*limits)
        if level is not None:
            axes.axhline(level, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
        draw_lines(axes, lines)
        label_ends(axes, lines)
        return save(figure, path)
