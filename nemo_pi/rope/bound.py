"""Theorem 2.1 of Position Interpolation (arXiv 2306.15595): why interpolated scores stay tame.

The attention score at distance s is a(s) = Re Σ_j h_j e^{i s θ_j}, with j over the D/2 rotated pairs and
complex h_j made of q and k. Between two trained (whole) distances s1 < s2, a_linear joins a(s1) and a(s2)
by a straight line. Four numbers, each to be multiplied by max_j |h_j|:

- printed: D·(s-s1)(s2-s) / (8 ln b), as the theorem has it. Its last step replaces Σθ_j² by an estimate that
  is too small, so it does not hold: at D = 128, b = 10,000, s = ½ it is 0.4343, while 0.4939 is reached.
- corrected: Σ_j θ_j²·(s-s1)(s2-s)/2, the same proof without that step (0.4998 there). It always holds.
- supremum: Σ_j |e^{isθ_j} - the chord between its neighbours|, which the worst h reaches.
- extrapolation: 2·B(s), the bound beyond the trained window, with B(s) = Σ_k |Σ_{j≤k} e^{isθ_j}|. The paper
  takes B(s) ≥ D for granted, and from it "at least about 600 times"; for D = 128 this fails first at
  s = 4,861. Being itself an upper bound, it says how bad extrapolation may be, not how bad it is.

All in float64: these numbers are for reports, not for the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nemo_pi.rope.spec import ContextExtension


def _thetas(rotary_dim: int, base: float) -> Tensor:
    exponents_F = torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim
    return base**-exponents_F


def _bow(s: float, s1: float, s2: float) -> float:
    if not s1 <= s <= s2 or s1 == s2:
        raise ValueError(f"s must lie between s1 and s2, and these must differ; got s={s}, s1={s1}, s2={s2}")
    return (s - s1) * (s2 - s)


def printed_bound(rotary_dim: int, base: float, s: float = 0.5, s1: float = 0.0, s2: float = 1.0) -> float:
    """Theorem 2.1 as printed: D·(s-s1)(s2-s) / (8 ln b), per max|h|. Not a valid bound; see the module."""
    return rotary_dim * _bow(s, s1, s2) / (8 * math.log(base))


def corrected_bound(rotary_dim: int, base: float, s: float = 0.5, s1: float = 0.0, s2: float = 1.0) -> float:
    """Σθ_j²·(s-s1)(s2-s)/2, per max|h|: the interpolation error never exceeds it."""
    return float(_thetas(rotary_dim, base).square().sum()) * _bow(s, s1, s2) / 2


def supremum(rotary_dim: int, base: float, s: float = 0.5, s1: float = 0.0, s2: float = 1.0) -> float:
    """The largest interpolation error over all h with max|h| = 1.

    The error is linear in h, Re Σ h_j g_j with g_j = e^{isθ_j} - chord; h_j = conj(g_j)/|g_j| reaches Σ|g_j|.
    """
    return float(_chord_errors(rotary_dim, base, s, s1, s2).sum())


def largest_error(
    moduli: Sequence[float], rotary_dim: int, base: float, s: float = 0.5, s1: float = 0.0, s2: float = 1.0
) -> float:
    """The largest interpolation error over all h with these |h_j|, one for each pair: Σ|h_j||g_j|.

    `supremum` is that of |h_j| = 1. Few pairs of a trained model reach its max_j |h_j|.
    """
    errors_F = _chord_errors(rotary_dim, base, s, s1, s2)
    return float((errors_F * torch.tensor(moduli, dtype=torch.float64)).sum())


def _chord_errors(rotary_dim: int, base: float, s: float, s1: float, s2: float) -> Tensor:
    """|g_j| of each pair."""
    _bow(s, s1, s2)
    thetas_F = _thetas(rotary_dim, base)
    share = (s - s1) / (s2 - s1)
    at, left, right = (torch.exp(1j * thetas_F * distance) for distance in (s, s1, s2))
    return (at - (1 - share) * left - share * right).abs()


def extrapolation_sum(rotary_dim: int, base: float, distance: float) -> float:
    """B(s) = Σ_k |Σ_{j≤k} e^{isθ_j}|; the score itself is at most 2·B(s), per max|h|."""
    partial_F = torch.exp(1j * _thetas(rotary_dim, base) * distance).cumsum(0)
    return float(partial_F.abs().sum())


@dataclass(frozen=True)
class BoundReport:
    """The theorem's numbers for one model, midway between neighbouring trained distances."""

    printed: float
    """Interpolation error bound as printed (invalid)."""
    corrected: float
    """Interpolation error bound that holds."""
    supremum: float
    """Largest interpolation error there is."""
    extrapolation: float
    """2·B(s) at the last distance of the target window."""
    distance: int
    """That distance, in tokens."""

    @property
    def printed_ratio(self) -> float:
        """Extrapolation to interpolation, both as printed (the paper: about 600)."""
        return self.extrapolation / self.printed

    @property
    def corrected_ratio(self) -> float:
        """Extrapolation to interpolation, with the bound that holds."""
        return self.extrapolation / self.corrected

    def times(self, largest: float) -> BoundReport:
        """The same with a model's own max|h| in place of 1."""
        return replace(
            self,
            printed=self.printed * largest,
            corrected=self.corrected * largest,
            supremum=self.supremum * largest,
            extrapolation=self.extrapolation * largest,
        )


def bound_report(spec: ContextExtension) -> BoundReport:
    """The theorem's numbers, per max|h|, for a model's rotary dimension, base and target window.

    They are worst at the midpoint, whatever the factor; the method does not enter, for the theorem speaks of
    plain RoPE read between its trained positions (linear) or beyond them (none).
    """
    dim, base, distance = spec.rotary_dim, spec.base, spec.target_window - 1
    return BoundReport(
        printed=printed_bound(dim, base),
        corrected=corrected_bound(dim, base),
        supremum=supremum(dim, base),
        extrapolation=2 * extrapolation_sum(dim, base, distance),
        distance=distance,
    )
