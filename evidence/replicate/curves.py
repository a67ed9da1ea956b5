"""Figure 2 of Position Interpolation: an attention score fitted within the window, read beyond and between.

The score at distance s is a(s) = Re Σ_j h_j e^{i s θ_j} (D = 128, b = 10,000). h is fitted by least squares
to a random score at every distance below L = 2,048, by the normal equations as in the paper's appendix, here
in float64. How far it explodes beyond depends on their conditioning; that it does, does not.

Shape legend: S distances, F rotated pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.rope.bound import corrected_bound, printed_bound, supremum

DIM, BASE, LIMIT = 128, 1e4, 2048


@dataclass(frozen=True)
class Curve:
    """A fitted score; all values are largest absolute ones."""

    inside: float
    """At the trained distances 0 … L."""
    beyond: float
    """At distances L … 2L, which were never seen."""
    between: float
    """Half-way between trained distances, as a factor of 2 reads them."""
    distances: Tensor
    """0 … 2L in steps of a half."""
    scores: Tensor
    """At those."""


def _features(distances_S: Tensor) -> Tensor:
    thetas_F = BASE ** -(torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    angles_SF = distances_S[:, None] * thetas_F
    return torch.cat([angles_SF.cos(), angles_SF.sin()], dim=1)


@cache
def fitted_curve(seed: int = 0) -> Curve:
    """The fit, in float64."""
    generator = torch.Generator().manual_seed(seed)
    wanted_S = torch.randn(LIMIT, generator=generator, dtype=torch.float64)
    trained = _features(torch.arange(LIMIT, dtype=torch.float64))
    h = torch.linalg.solve(trained.T @ trained, trained.T @ wanted_S)
    distances_S = torch.arange(0, 2 * LIMIT, 0.5, dtype=torch.float64)
    scores_S = _features(distances_S) @ h
    whole, size, seen = distances_S % 1 == 0, scores_S.abs(), distances_S <= LIMIT - 1
    return Curve(
        inside=float(size[whole & seen].max()),
        beyond=float(size[~seen].max()),
        between=float(size[~whole & seen].max()),
        distances=distances_S,
        scores=scores_S,
    )


def draw(path: Path) -> Path:
    """Four panels: within the window, beyond it, between positions, and the bounds on what lies between."""
    from nemo_pi.evaluation.style import COLOURS, QUIET, headline, new_figure, save

    curve = fitted_curve()
    x, y = curve.distances, curve.scores
    near, seen = x <= 8, x < LIMIT
    with new_figure(9.0, 7.0) as figure:
        headline(figure, "Extrapolation and interpolation of one attention score", "d = 128, b = 10,000")
        places = ((0.09, 0.5), (0.57, 0.5), (0.09, 0.08), (0.57, 0.08))
        first, second, third, last = (figure.add_axes((*place, 0.39, 0.29)) for place in places)
        first.plot(x[seen], y[seen], color=COLOURS[2], linewidth=0.7)
        first.set_title("within the window: fitted", fontsize=9.5)
        second.plot(x, y, color=COLOURS[3], linewidth=0.7)
        second.axvline(LIMIT, color=QUIET, linestyle="--", linewidth=1)
        second.set_title("beyond it: extrapolated", fontsize=9.5)
        third.plot(x[near], y[near], color=COLOURS[2], linewidth=1.2)
        third.plot(x[near][::2], y[near][::2], "o", color=COLOURS[0], markersize=5)
        third.set_title("between positions: interpolated", fontsize=9.5)
        _draw_bounds(last, COLOURS)
        for axes in (first, second, third, last):
            axes.set_xlabel("distance in tokens")
        save(figure, path)
    return path


def _draw_bounds(axes: Any, colours: Sequence[str]) -> None:
    """Largest error between positions 0 and 1, beside both bounds, per max|h|."""
    s = [i / 40 for i in range(1, 40)]
    pairs = (
        ("bound as printed", printed_bound),
        ("bound that holds", corrected_bound),
        ("reached", supremum),
    )
    looks = ((colours[3], "--"), (colours[0], ":"), (colours[2], "-"))
    for (name, function), (colour, style) in zip(pairs, looks, strict=True):
        axes.plot(s, [function(DIM, BASE, at) for at in s], style, color=colour, label=name)
    axes.legend(frameon=False, fontsize=8.5, loc="lower center")
    axes.set_title("error between two positions ÷ max|h|", fontsize=9.5)
