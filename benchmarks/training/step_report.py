"""The table, the verdict and the plot of benchmarks/train_step.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, ratio, spread
from benchmarks.training.figures import Panel, draw_panels
from benchmarks.training.race import Outcome
from nemo_pi.evaluation.style import Line, as_line

OURS = "nemo_pi"
Key = tuple[str, int]
"""Size and length."""
Results = Mapping[Key, Mapping[str, Outcome]]


def table(results: Results) -> list[Row]:
    """One row per size, length and contestant; above 1 times, nemo_pi is faster."""
    return [
        {"model": size, "tokens": length, "contestant": name, **_measured(length, one, outcomes.get(OURS))}
        for (size, length), outcomes in results.items()
        for name, one in outcomes.items()
    ]


def _measured(length: int, outcome: Outcome, ours: Outcome | None) -> dict[str, Any]:
    columns = (
        "tokens/s",
        "nemo_pi is faster by",
        "peak MiB",
        "beyond imports",
        "nemo_pi's ÷ its peak",
    )
    if not outcome.seconds:
        return dict(
            zip(columns, ((outcome.failure or "did not run").splitlines()[0], "", "", "", ""), strict=True)
        )
    speeds = spread(length / seconds for seconds in outcome.seconds)
    faster = share = ""
    if ours is not None and ours.seconds:
        both = min(len(outcome.seconds), len(ours.seconds))  # one may have run out of memory on the way
        faster = ratio(outcome.seconds[:both], ours.seconds[:both]).text(2)
        share = f"{ours.peak_mib / outcome.peak_mib:.2f}"
    values = (speeds.text(0), faster, f"{outcome.peak_mib:.0f}", f"{outcome.work_mib:.0f}", share)
    return dict(zip(columns, values, strict=True))


def verdict(results: Results) -> str:
    """One line: the fastest of each cell, and by how much."""
    parts = []
    for (size, length), outcomes in results.items():
        medians = {name: spread(one.seconds).median for name, one in outcomes.items() if one.seconds}
        ranked = sorted(medians, key=lambda name: medians[name])
        lead = f", {medians[ranked[1]] / medians[ranked[0]]:.2f}x {ranked[1]}" if len(ranked) > 1 else ""
        parts.append(f"{size} at {length:,} tokens: {ranked[0] if ranked else 'nobody'}{lead}")
    return "Ahead in tokens/s: " + "; ".join(parts) + "."


def draw(results: Results, path: Path) -> Path:
    """Speed and memory against the length of a sample, for each size."""
    panels = []
    for size in dict.fromkeys(size for size, _ in results):
        speeds = _lines(results, size, lambda length, one: length / spread(one.seconds).median)
        peaks = _lines(results, size, lambda _, one: one.peak_mib)
        panels.append(Panel(f"{size}: tokens per second", speeds))
        panels.append(Panel(f"{size}: peak memory (MiB)", peaks, logarithmic=True))
    subtitle = "one optimizer step on one sample; equal weights, tokens and optimizer; medians"
    return draw_panels(path, "A training step", subtitle, "tokens of the sample", panels)


def _lines(results: Results, size: str, value: Callable[[int, Outcome], float]) -> list[Line]:
    """One line for each contestant that was measured at this size."""
    points: dict[str, list[tuple[float, float]]] = {}
    for (name, length), outcomes in results.items():
        for contestant, one in outcomes.items():
            if name == size and one.seconds:
                points.setdefault(contestant, []).append((length, value(length, one)))
    return [as_line(number, name, found) for number, (name, found) in enumerate(points.items())]


def facts(device: str, results: Results) -> list[str]:
    """What a reader of the table has to know."""
    how = "bf16 over fp32 weights" if device == "cuda" else "fp32"
    reasons = {
        f"{size} at {length:,} tokens: {one.failure}"
        for (size, length), found in results.items()
        for one in found.values()
        if one.failure
    }
    return [
        f"{how}; a batch of one sample; AdamW (torch's fused one), gradients clipped to norm 1.",
        "nemo_pi runs under Lightning's Trainer on indexed data, without progress bar and logger.",
        "Speeds are medians with quartiles, ratios are taken round by round; peaks are of whole processes.",
        *(f"Failed: {' '.join(reason.split())[-500:]}" for reason in sorted(reasons)),
    ]
