"""The table, the verdict and the plot of benchmarks/growth.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import Row, Spread, spread
from benchmarks.training.figures import Panel, draw_panels
from benchmarks.training.race import Outcome
from nemo_pi.evaluation.style import as_line

K = 1024
FULL, POSE = "full length", "PoSE"
FLAT_FROM, FLAT_WITHIN = 4 * K, 0.10
"""PoSE is called flat if from this target on the slowest and fastest medians are no further apart."""
Found = Mapping[str, Mapping[int, Outcome]]
"""Way → window → what was measured."""


def milliseconds_per_token(outcome: Outcome, length: int) -> Spread:
    """Of trained tokens."""
    return spread(1e3 * seconds / length for seconds in outcome.seconds)


def table(found: Found, window: int) -> list[Row]:
    """One row per way and window."""
    rows: list[Row] = []
    for way, outcomes in found.items():
        for target, outcome in outcomes.items():
            length = target if way == FULL else window
            failed = (outcome.failure or "did not run").splitlines()[0]
            times = milliseconds_per_token(outcome, length).text(3) if outcome.seconds else failed
            rows.append(
                {
                    "way": way,
                    "window": target,
                    "tokens of a sample": length,
                    "ms/token": times,
                    "peak MiB": f"{outcome.peak_mib:.0f}",
                    "KiB/token beyond imports": f"{K * outcome.work_mib / length:.1f}",
                }
            )
    return rows


def flatness(pose: Mapping[int, Outcome], start: int = FLAT_FROM) -> tuple[float, float]:
    """How much more than the least the most takes from target `start` on: in time, and in memory."""
    chosen = [outcome for target, outcome in pose.items() if target >= start and outcome.seconds]
    times = [spread(outcome.seconds).median for outcome in chosen]
    peaks = [outcome.peak_mib for outcome in chosen]
    return max(times) / min(times) - 1, max(peaks) / min(peaks) - 1


def verdict(found: Found, window: int) -> str:
    """One line: who was ahead at the longest full length, and whether PoSE is flat."""
    lengths, targets = ({n: one for n, one in found[way].items() if one.seconds} for way in (FULL, POSE))
    if not lengths or not targets:
        return f"Nobody was ahead: {POSE if lengths else FULL} did not run."
    longest, full = max(lengths.items(), key=lambda item: item[0])
    pose = targets[min(targets, key=lambda target: abs(target - longest))]
    times = [spread(one.seconds).median / n for one, n in ((full, longest), (pose, window))]
    start = min(FLAT_FROM, max(targets))
    in_time, in_memory = flatness(targets, start)
    flat = "flat" if max(in_time, in_memory) <= FLAT_WITHIN else "not flat"
    ahead, lead = (POSE, times[0] / times[1]) if times[1] < times[0] else (FULL, times[1] / times[0])
    memory = full.peak_mib / pose.peak_mib
    return (
        f"Ahead at {longest:,} tokens: {ahead}, {lead:.2f}x as fast a token; full length takes {memory:.2f}x"
        f" PoSE's memory; PoSE is {flat} from {start:,} to {max(targets):,} "
        f"(time within {in_time:.1%}, memory within {in_memory:.1%}; target {FLAT_WITHIN:.0%})."
    )


def failures(found: Found) -> list[str]:
    """Notes on who did not finish."""
    return [
        f"Failed: {way}, {target:,}: {' '.join(one.failure.split())[-500:]}"
        for way, outcomes in found.items()
        for target, one in outcomes.items()
        if one.failure
    ]


def draw(found: Found, window: int, path: Path) -> Path:
    """Time and memory per token against the window."""
    times, peaks = [], []
    for number, (way, outcomes) in enumerate(found.items()):
        ran = {target: one for target, one in outcomes.items() if one.seconds}
        medians = [
            (target, milliseconds_per_token(one, target if way == FULL else window).median)
            for target, one in ran.items()
        ]
        if not ran:
            continue
        times.append(as_line(number, way, medians))
        peaks.append(as_line(number, way, [(target, one.peak_mib) for target, one in ran.items()]))
    panels = [Panel("milliseconds per token", times), Panel("peak memory (MiB)", peaks)]
    subtitle = f"one optimizer step; samples as long as the window, or {window:,} tokens under PoSE; medians"
    return draw_panels(path, "As the window grows", subtitle, "window (tokens)", panels)
