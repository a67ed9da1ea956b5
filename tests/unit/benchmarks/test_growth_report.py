"""Who was ahead as the window grows, and whether PoSE is flat."""

from __future__ import annotations

import pytest

from benchmarks.training.growth_report import FULL, POSE, flatness, verdict
from benchmarks.training.race import Outcome


def outcome(seconds: float, peak_mib: float) -> Outcome:
    return Outcome(seconds=[seconds] * 3, peak_mib=peak_mib)


def test_flatness_begins_at_the_first_target_that_counts() -> None:
    targets = {2048: outcome(9.0, 900), 4096: outcome(1.0, 100), 8192: outcome(1.05, 120)}
    assert flatness(targets, 4096) == pytest.approx((0.05, 0.2))


def test_verdict_counts_time_per_token() -> None:
    full = {1024: outcome(1.0, 100), 16384: outcome(64.0, 800)}  # 4 times as long per token
    pose = {4096: outcome(1.0, 100), 16384: outcome(1.05, 100), 2**20: outcome(1.0, 100)}
    line = verdict({FULL: full, POSE: pose}, window=1024)
    assert line.startswith("Ahead at 16,384 tokens: PoSE, 3.81x")
    assert "8.00x PoSE's memory" in line
    assert "PoSE is flat from 4,096 to 1,048,576 (time within 5.0%, memory within 0.0%" in line


def test_what_is_not_flat_is_called_so() -> None:
    pose = {4096: outcome(1.0, 100), 2**20: outcome(1.2, 100)}
    assert "PoSE is not flat" in verdict({FULL: {4096: outcome(4.0, 100)}, POSE: pose}, window=1024)
