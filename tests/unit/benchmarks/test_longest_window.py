"""What a budget holds, from two peaks."""

from __future__ import annotations

import pytest

from benchmarks.longest_window import OURS, Point, longest, row, verdict

LENGTHS = (1024, 2048)


def test_the_line_through_two_peaks() -> None:
    """1,000 MiB and half a MiB a token."""
    points = Point(1512.0, 1.0), Point(2024.0, 3.0)
    assert longest(*points, LENGTHS, 2) == 2048  # 2,096 rounded to what is asked for
    assert longest(*points, LENGTHS, 0.5) == 0
    line = row("nemo_pi", LENGTHS, points)
    assert line["KiB a token"] == 512 and line["CPU ms a token at 2048"] == pytest.approx(1.46)


def test_the_best_of_each_side_are_compared() -> None:
    rows = [
        {"contestant": "transformers", "4 GiB": 1000},
        {"contestant": "transformers, checkpointed", "4 GiB": 2000},
        *({"contestant": name, "4 GiB": 3000 + number} for number, name in enumerate(OURS)),
    ]
    assert verdict(rows).endswith(
        f"with {2999 + len(OURS):,} tokens, 1.5 times transformers, checkpointed (2,000)."
    )
    assert "one side is missing" in verdict(rows[:2])
