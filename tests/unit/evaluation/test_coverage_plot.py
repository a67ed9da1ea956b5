"""The plot of distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nemo_pi.errors import DataError
from nemo_pi.evaluation.coverage_plot import MOST_POINTS, _means, plot_coverage


def test_draws_a_png(tmp_path: Path) -> None:
    counts = {"paper": np.arange(5000)[::-1].copy(), "random": np.full(4096, 7)}
    path = plot_coverage(counts, tmp_path / "a" / "plot.png", original_window=512, subtitle="a run")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_groups_of_distances_are_averaged_and_unseen_ones_left_out() -> None:
    means = _means(np.array([100, 3, 5, 0, 2]))
    assert means[:2] == [(1.0, 3.0), (2.0, 5.0)] and np.isnan(means[2][1]) and means[3] == (4.0, 2.0)
    many = _means(np.ones(10_001))
    assert len(many) == MOST_POINTS and {y for _, y in many} == {1.0}
    assert [x for x, _ in many] == sorted(x for x, _ in many)


def test_nothing_counted_is_refused(tmp_path: Path) -> None:
    for counts in ({}, {"paper": np.array([5, 0, 0])}):
        with pytest.raises(DataError, match="pairs of tokens"):
            plot_coverage(counts, tmp_path / "plot.png", original_window=1, subtitle="")
