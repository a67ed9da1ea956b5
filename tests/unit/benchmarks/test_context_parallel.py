"""The ring that our all-gather is measured against does the same work, and the script says who was ahead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.context_parallel.measuring import AGAIN, OURS, RING, Measured
from benchmarks.context_parallel.report import combine, verdict
from benchmarks.context_parallel.ring import ring_step
from benchmarks.context_parallel_ring import main


def test_every_query_meets_every_key_before_it_once() -> None:
    """Zig-zag places of four ranks, and as many pairs in every step of every rank."""
    size, chunk = 4, 3
    length = 2 * chunk
    places = [
        [*range(r * chunk, (r + 1) * chunk), *range((7 - r) * chunk, (8 - r) * chunk)] for r in range(size)
    ]
    met: list[tuple[int, int]] = []
    for rank in range(size):
        for number in range(size):
            step = ring_step(number, rank, size, length)
            queries, keys = places[rank][step.queries], places[(rank - number) % size][step.keys]
            pairs = [(q, k) for q in queries for k in keys if not step.causal or k <= q]
            assert len(pairs) == (length * (length + 1) // 2 if step.causal else 2 * chunk * chunk)
            met += pairs
    assert sorted(met) == [(q, k) for q in range(size * length) for k in range(q + 1)]


def measured(*seconds: float) -> Measured:
    return Measured(seconds=list(seconds), cpu_seconds=[1.0, 2.0], sent_bytes=2**20, peak_mib=3.0)


def test_verdict_counts_settings_and_names_the_lead() -> None:
    ours, twice, half = measured(1.0, 1.0, 1.0), measured(2.0, 2.0, 2.0), measured(0.5, 0.5, 0.5)
    around = measured(0.9, 1.0, 1.1)
    found = {
        2: {64: {OURS: ours, RING: twice}, 128: {OURS: ours, RING: half}},
        4: {64: {OURS: ours, RING: twice}, 128: {OURS: ours, RING: around}},
    }
    line = verdict(found)
    assert line.startswith("Ahead: the ring in 1 and our all-gather in 2 of 4 settings")
    assert "at 128 tokens the ring by 2.00x on 2 ranks, neither (the ring takes 1.00" in line


def test_ranks_are_combined_by_the_worst() -> None:
    other = Measured([9.0], [7.0, 8.0], sent_bytes=5, kept_mib=4.0, peak_mib=1.0)
    assert combine([measured(1.0), other]) == Measured([1.0], [7.0, 8.0], 2**20, 4.0, 3.0)


@pytest.mark.slow
def test_quick(tmp_path: Path) -> None:
    """From the command line to the result files; the script itself compares every way with one rank."""
    main(["--quick", "--ranks", "2", "--results", str(tmp_path)])
    (written,) = tmp_path.glob("*-context-parallel-ring-quick-*.json")
    record = json.loads(written.read_text(encoding="utf-8"))
    assert [row["attention"] for row in record["rows"]] == [OURS, RING, AGAIN]
    block = 2 * 2 * 128 * 32 * 4  # keys and values, heads, tokens, head dim, fp32
    sent = record["raw"]["2 ranks, 256 tokens"][RING]["sent_bytes"]
    assert 3 * block <= sent < 3.1 * block, "keys and values twice, their gradients once"
    assert record["verdict"].startswith("Ahead")
