"""The table and the verdict of benchmarks/context_parallel_ring.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.context_parallel.measuring import OURS, RING, Measured
from benchmarks.harness import Row, Spread, ratio, spread

MIB = 2**20
Found = Mapping[int, Mapping[int, Mapping[str, Measured]]]
"""Ranks → tokens of a row → way → what was measured."""


def combine(ranks: Sequence[Measured]) -> Measured:
    """One way on all its ranks: the first's clock, the busiest's CPU time, the fullest's memory."""
    return Measured(
        seconds=ranks[0].seconds,
        cpu_seconds=max((one.cpu_seconds for one in ranks), key=lambda seconds: spread(seconds).median),
        sent_bytes=max(one.sent_bytes for one in ranks),
        kept_mib=max(one.kept_mib for one in ranks),
        peak_mib=max(one.peak_mib for one in ranks),
    )


def table(found: Found) -> list[Row]:
    """One row per number of ranks, length and way."""
    return [
        {
            "ranks": ranks,
            "tokens": length,
            "attention": way,
            "ms": spread(one.seconds).text(0, 1e3),
            "ours takes as long": ratio(ways[OURS].seconds, one.seconds).text(2),
            "CPU ms": f"{1e3 * spread(one.cpu_seconds).median:.0f}",
            "sent MiB": f"{one.sent_bytes / MIB:.2f}",
            "kept MiB": f"{one.kept_mib:.1f}",
            "peak MiB": f"{one.peak_mib:.1f}",
        }
        for ranks, lengths in found.items()
        for length, ways in lengths.items()
        for way, one in ways.items()
    ]


def raw(found: Found) -> dict[str, Any]:
    """Everything measured, for the JSON file."""
    return {
        f"{ranks} ranks, {length} tokens": {way: asdict(one) for way, one in ways.items()}
        for ranks, lengths in found.items()
        for length, ways in lengths.items()
    }


def verdict(found: Found) -> str:
    """One line: how often the ring or ours was ahead, and by how much at the longest row."""
    leads = {
        (ranks, length): ratio(ways[RING].seconds, ways[OURS].seconds)
        for ranks, lengths in found.items()
        for length, ways in lengths.items()
    }
    ours = sum(lead.low > 1 for lead in leads.values())
    ring = sum(lead.high < 1 for lead in leads.values())
    longest = max(length for _, length in leads)
    at_longest = ", ".join(
        f"{_who(lead)} on {ranks} ranks" for (ranks, length), lead in leads.items() if length == longest
    )
    return (
        f"Ahead: the ring in {ring} and our all-gather in {ours} of {len(leads)} settings, the rest too "
        f"close to tell; at {longest:,} tokens {at_longest}."
    )


def _who(lead: Spread) -> str:
    """Who was ahead, and how many times as fast; `lead`: times of the ring as parts of ours."""
    if lead.low <= 1 <= lead.high:
        return f"neither (the ring takes {lead.text()} of our time)"
    return f"ours by {lead.median:.2f}x" if lead.low > 1 else f"the ring by {1 / lead.median:.2f}x"
