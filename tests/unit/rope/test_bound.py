"""Theorem 2.1 against a search for the worst score function."""

from __future__ import annotations

import cmath
import math
import random

import pytest

from nemo_pi.rope.bound import bound_report, corrected_bound, extrapolation_sum, printed_bound, supremum
from tests.unit.rope.peers import make_spec

DIM, BASE = 128, 10000.0


def interpolation_error(h: list[complex], s: float, s1: float = 0.0, s2: float = 1.0) -> float:
    """|a(s) - a_linear(s)|, from the definitions."""

    def score(distance: float) -> float:
        turned = (h_j * cmath.exp(1j * distance * BASE ** (-2 * j / DIM)) for j, h_j in enumerate(h))
        return sum(value.real for value in turned)

    return abs(score(s) - (score(s1) * (s2 - s) + score(s2) * (s - s1)) / (s2 - s1))


def test_published_constants() -> None:
    """d / 294.73 as printed, and 0.4998 without the faulty step."""
    assert printed_bound(DIM, BASE) == pytest.approx(DIM / 294.73, rel=1e-5)
    assert printed_bound(DIM, BASE) == pytest.approx(0.4343, abs=5e-5)
    assert corrected_bound(DIM, BASE) == pytest.approx(0.49979, abs=5e-6)


def test_printed_bound_is_exceeded() -> None:
    """The counterexample: h_j = e^(-iθ_j/2), s = ½."""
    h = [cmath.exp(-0.5j * BASE ** (-2 * j / DIM)) for j in range(DIM // 2)]
    error = interpolation_error(h, 0.5)
    assert error == pytest.approx(0.4939, abs=5e-5)
    assert printed_bound(DIM, BASE) < error <= corrected_bound(DIM, BASE)
    assert supremum(DIM, BASE) == pytest.approx(error, rel=1e-12)


def test_search_stays_below_the_supremum_and_comes_near_it() -> None:
    """Random phases improved one at a time, at several places between several trained distances."""
    draw = random.Random(0)
    for s, s1, s2 in ((0.5, 0.0, 1.0), (0.25, 0.0, 1.0), (100.7, 100.0, 101.0), (1.0, 0.0, 3.0)):
        highest = supremum(DIM, BASE, s, s1, s2)
        assert highest <= corrected_bound(DIM, BASE, s, s1, s2)
        h = [cmath.exp(2j * math.pi * draw.random()) for _ in range(DIM // 2)]
        assert interpolation_error(h, s, s1, s2) <= highest
        for j in range(DIM // 2):
            alone = {k: 0j for k in range(DIM // 2)}
            phases = [cmath.exp(2j * math.pi * k / 64) for k in range(64)]
            errors = [interpolation_error(list((alone | {j: p}).values()), s, s1, s2) for p in phases[:32]]
            best = phases[errors.index(max(errors))]
            mine = list((alone | {j: best}).values())
            h[j] = best if signed_error(mine, s, s1, s2) > 0 else -best
        assert 0.99 * highest < interpolation_error(h, s, s1, s2) <= highest * (1 + 1e-12)


def signed_error(h: list[complex], s: float, s1: float, s2: float) -> float:
    thetas = [BASE ** (-2 * j / DIM) for j in range(len(h))]
    line = [
        ((s2 - s) * cmath.exp(1j * s1 * theta) + (s - s1) * cmath.exp(1j * s2 * theta)) / (s2 - s1)
        for theta in thetas
    ]
    return sum((h_j * (cmath.exp(1j * s * t) - c)).real for h_j, t, c in zip(h, thetas, line, strict=True))


def test_extrapolation_sum() -> None:
    """At distance 0 all terms align: 1 + 2 + … + 64. B(s) ≥ d fails first at 4,861."""
    assert extrapolation_sum(DIM, BASE, 0) == 64 * 65 / 2
    naive = 0.0
    for k in range(1, DIM // 2 + 1):
        naive += abs(sum(cmath.exp(1j * 300 * BASE ** (-2 * j / DIM)) for j in range(k)))
    assert extrapolation_sum(DIM, BASE, 300) == pytest.approx(naive)
    first = next(s for s in range(1, 10000) if extrapolation_sum(DIM, BASE, s) < DIM)
    assert first == 4861


def test_report_of_the_paper_s_model() -> None:
    spec = make_spec("linear", original_window=2048, target_window=4096, head_dim=DIM)
    report = bound_report(spec)
    assert report.distance == 4095
    assert report.printed_ratio > 2 * 294.73 > 589  # "at least about 600 times"
    assert report.corrected_ratio == pytest.approx(report.printed_ratio * 0.43429 / 0.49979, rel=1e-4)
    assert report.printed < report.supremum < report.corrected


def test_distances_out_of_order() -> None:
    with pytest.raises(ValueError, match="between s1 and s2"):
        supremum(DIM, BASE, 2.0)
