"""Tables, the verdict and the plot of benchmarks/rope.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Row, ratio, spread
from benchmarks.training.figures import Panel, draw_panels
from nemo_pi.evaluation.style import Line, as_line

COPY = "copy"


@dataclass(frozen=True)
class Measured:
    """One job at one size by everybody."""

    shape: str
    tokens: int
    task: str
    num_bytes: float
    """What has to be read and written, forward and backward."""
    seconds: dict[str, list[float]]
    """Of each round, by contestant, the copy of as many bytes among them."""
    first: dict[str, float]
    """Seconds of the very first call: compiling, where anything is compiled."""

    def share(self, name: str) -> float:
        """Speed as a share of the copy's, the median over rounds."""
        return ratio(self.seconds[COPY], self.seconds[name]).median


def table(measured: Sequence[Measured], ours: str) -> list[Row]:
    """One line for each contestant at each size."""
    return [_row(one, name, ours) for one in measured for name in one.seconds]


def _row(one: Measured, name: str, ours: str) -> Row:
    times = spread(one.seconds[name])
    return {
        "shape": one.shape,
        "tokens": one.tokens,
        "job": one.task,
        "who": name,
        "ms (quartiles)": times.text(2, scale=1e3),
        "GB/s": one.num_bytes / times.median / 1e9,
        "of copy": f"{one.share(name):.0%}",
        f"times {ours}": ratio(one.seconds[name], one.seconds[ours]).text(2) if ours in one.seconds else "",
        "first call, s": f"{one.first[name]:.1f}",
    }


def verdict(measured: Sequence[Measured], ours: str) -> str:
    """One line: who was ahead where."""
    if any(ours not in one.seconds for one in measured):
        return f"{ours} did not take part."
    behind = []
    margins = []
    for one in measured:
        others = [name for name in one.seconds if name not in (COPY,) and not name.startswith("nemo_pi")]
        if not others:
            continue
        best = min(others, key=lambda name, one=one: spread(one.seconds[name]).median)  # type: ignore[misc]
        margin = ratio(one.seconds[best], one.seconds[ours]).median
        margins.append(margin)
        if margin < 1:
            where = f"{one.shape}, {one.task}, {one.tokens:,} tokens"
            behind.append(f"{best} on {where} ({1 / margin:.2f} times)")
    if not margins:
        return f"{ours} ran alone."
    shares = [one.share(ours) for one in measured]
    range_text = f"{min(margins):.1f} to {max(margins):.1f} times as fast as the best other"
    reached = f"at {min(shares):.0%} to {max(shares):.0%} of a copy's speed"
    if behind:
        return f"{ours} ({range_text}, {reached}) was behind " + "; ".join(behind) + "."
    return f"{ours} was ahead everywhere: {range_text}, {reached}."


def draw(measured: Sequence[Measured], machine: str, path: Path) -> Path:
    """Share of the copy's speed over tokens: a panel for each shape and job."""
    names = list(dict.fromkeys(name for one in measured for name in one.seconds if name != COPY))
    panels = []
    for shape, task in dict.fromkeys((one.shape, one.task) for one in measured):
        here = [one for one in measured if (one.shape, one.task) == (shape, task)]
        lines = [_line(number, name, here) for number, name in enumerate(names)]
        panels.append(Panel(f"{shape}, {task}: % of a copy's speed", [line for line in lines if line.points]))
    subtitle = f"{machine}; forward and backward; the copy moves as many bytes as the job must"
    return draw_panels(path, "Rotary kernels beside a plain copy", subtitle, "tokens", panels)


def _line(number: int, name: str, here: Sequence[Measured]) -> Line:
    return as_line(number, name, [(one.tokens, 100 * one.share(name)) for one in here if name in one.seconds])
