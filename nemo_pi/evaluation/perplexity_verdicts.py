"""What perplexities answer: whether a model reads further, and what that cost within the old window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nemo_pi.evaluation.charts import Bar, BarChart, LineChart, Series, near_the_best
from nemo_pi.evaluation.perplexity import PerplexityResult, finite_values
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.text_tables import MISSING
from nemo_pi.evaluation.verdicts import Finding, Verdict

HOLDS = 1.10
"""Times its own perplexity at the original window that a model may have at a length that it reads. A model
beyond what it can read doubles it at once (Position Interpolation, table 1), and on text without long ties a
sound one still rises by some per cent."""
LEVEL = 1.25
"""Times the first model's perplexity at the original window: a model that reads everything badly, evenly,
does not read further."""
KEPT, NEARLY = 1.02, 1.10
"""Times the first model's perplexity at the original window that count as kept and as nearly kept."""
FURTHER = "Does it read further than before?"
COST = "What did it cost within the old window?"


def format_perplexity(value: float | None) -> str:
    """Write a perplexity with three or more figures, in at most seven characters."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    if value < 99.95:
        return f"{value:.2f}"
    if value < 999.95:
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 99_999.5 else f"{value:.1e}"


def reads_further(models: Sequence[Measured[PerplexityResult]]) -> Verdict:
    """Up to which length each model reads."""
    rule = (
        f"A length is read where perplexity there, and at every shorter length, is at most {HOLDS:g} times "
        f"the model's own at the original window and at most {LEVEL:g} times the first model's there. Yes: "
        "the target window is read. Partly: a length beyond the original window is. No: none is."
    )
    findings = tuple(_reading(model, models[0]) if model.result else None for model in models)
    return Verdict(FURTHER, rule, findings, perplexity_charts(models))


def cost_within(models: Sequence[Measured[PerplexityResult]]) -> Verdict:
    """Each model's perplexity at the original window against the first one's."""
    rule = (
        "Perplexity at the original window, divided by the first model's on the same tokens. "
        f"Kept: at most {KEPT:g}. Nearly kept: at most {NEARLY:g}. Lost: more than that."
    )
    findings = tuple(_cost(i, model, models[0]) if model.result else None for i, model in enumerate(models))
    bars = [
        Bar(model.model, ratio, f"{ratio:.3f}", i)
        for i, model in enumerate(models)
        if (ratio := ratio_at_window(model, models[0])) is not None and math.isfinite(ratio)
    ]
    chart = BarChart(
        "Perplexity at the original window, divided by the first model's",
        f"One bar a model; shorter is better. {KEPT:g} and less counts as kept.",
        "times the first model's perplexity",
        tuple(bars),
        (KEPT, f"kept: {KEPT:g}"),
    )
    return Verdict(COST, rule, findings, (chart,) if len(bars) > 1 else (), ("kept", "nearly kept", "lost"))


def ratio_at_window(model: Measured[PerplexityResult], first: Measured[PerplexityResult]) -> float | None:
    """A model's perplexity at the original window divided by the first one's; None where they cannot be
    compared: not measured there, or not by the same protocol on the same tokens."""
    own, before = at_window(model), at_window(first)
    if own is None or before is None or not _alike(model, first):
        return None
    return own / before


def at_window(model: Measured[PerplexityResult]) -> float | None:
    """Perplexity at the model's original window; None where it was not measured."""
    return model.result.by_length.get(model.original_window) if model.result else None


def read_length(by_length: Mapping[int, float], own: float, before: float) -> int:
    """The longest length up to which every one is read; 0 if the shortest is not. NaN is not read."""
    longest = 0
    for length, value in sorted(by_length.items()):
        if not value <= min(HOLDS * own, LEVEL * before):
            break
        longest = length
    return longest


def perplexity_charts(models: Sequence[Measured[PerplexityResult]]) -> tuple[LineChart, ...]:
    """All models, and where a few leave no room to tell the others apart, those enlarged."""
    series = tuple(
        Series(model.model, tuple(points), i)
        for i, model in enumerate(models)
        if (points := finite_values(model.result))
    )
    if not series:
        return ()
    shared: dict[str, Any] = {
        "x_label": "context length (tokens)",
        "y_label": "perplexity (lower is better)",
        "marks": window_marks(models),
        "digits": "#,.4g",
    }
    summary = "Perplexity of held-out text by the context length that it is read with, a line for each model."
    charts = [LineChart("Perplexity by context length", summary, series=series, **shared)]
    near, limits = near_the_best(series)
    if near:
        title = "The lowest lines of that chart, enlarged"
        charts.append(LineChart(title, summary, series=series, limits=limits, **shared))
    return tuple(charts)


def window_marks(models: Sequence[Measured[Any]]) -> tuple[tuple[float, str], ...]:
    """Original windows as marks of a chart."""
    windows = sorted({model.original_window for model in models})
    return tuple((float(window), f"original window: {window:,}") for window in windows)


def _reading(model: Measured[PerplexityResult], first: Measured[PerplexityResult]) -> Finding:
    assert model.result is not None
    values = model.result.by_length
    own, lengths = at_window(model), sorted(values)
    if own is None or not lengths or lengths[-1] <= model.original_window:
        return Finding("unknown", "not measured both at the original window and beyond it")
    comparable = at_window(first) is not None and _alike(model, first)
    before = at_window(first) if comparable else own
    assert before is not None
    reach = read_length(values, own, before)
    last = lengths[-1]
    text = (
        f"perplexity {format_perplexity(own)} at {model.original_window:,} tokens and "
        f"{format_perplexity(values[last])} at {last:,}; "
        + (f"read up to {reach:,} tokens" if reach else "not even the shortest length is read")
    )
    if math.isfinite(own) and own > LEVEL * before:
        text += f": {own / before:.2f} times the first model's at the original window"
    if reach >= model.target_window:
        return Finding("yes", text, f"{reach:,} tokens")
    return Finding("partly" if reach > model.original_window else "no", text, f"{reach:,} tokens")


def _cost(index: int, model: Measured[PerplexityResult], first: Measured[PerplexityResult]) -> Finding:
    own = at_window(model)
    if own is None:
        return Finding("unknown", "not measured at its original window")
    said = f"perplexity {format_perplexity(own)} at {model.original_window:,} tokens"
    if index == 0:
        return Finding("reference", f"{said}; what the others are compared with", format_perplexity(own))
    ratio = ratio_at_window(model, first)
    if ratio is None:
        return Finding("unknown", f"{said}; the first model was not measured on the same tokens")
    answer = "yes" if ratio <= KEPT else "partly" if ratio <= NEARLY else "no"
    return Finding(answer, f"{said}, {ratio:.3f} times the first model's", f"{ratio:.3f}×")  # type: ignore[arg-type]


def _alike(model: Measured[PerplexityResult], other: Measured[PerplexityResult]) -> bool:
    """Whether two perplexities are of the same tokens in the same way."""
    same_window = model.original_window == other.original_window
    return bool(
        model.result and other.result and same_window and model.result.protocol == other.result.protocol
    )
