"""The benchmark of imports says whether the bound holds on every rank of every layout."""

from __future__ import annotations

import pytest

from benchmarks.import_memory import THEIRS, Taken, table, verdict


def taken(peak: float) -> dict[str, list[Taken]]:
    """Three loads of each contestant: 100 MiB whole, the largest tensor 20."""
    return {
        THEIRS: [Taken(seconds=1.0, cpu=1.0, peak=120.0, part=100.0)] * 3,
        "nemo_pi, TP 1": [Taken(seconds=2.0, cpu=2.0, peak=110.0, part=100.0)] * 3,
        "nemo_pi, TP 2": [Taken(seconds=1.0, cpu=1.0, peak=peak, part=50.0)] * 3,
    }


@pytest.mark.parametrize(
    ("peak", "words"), [(83.0, "holds: at most 1.19"), (90.0, "does NOT hold: at most 1.29")]
)
def test_the_verdict_is_of_the_fullest_rank_of_every_layout(peak: float, words: str) -> None:
    line = verdict(taken(peak), largest=20.0)
    assert words in line and "processor time 0.50 (0.50 to 0.50) times ours" in line
    assert [row["peak / (part + largest)"] for row in table(taken(84.0), 20.0)] == [1.0, 0.92, 1.2]
