"""What RULER's scores answer: how long a context the model makes use of."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_pi.evaluation.charts import HeatMap, LineChart, Panel, Series
from nemo_pi.evaluation.ruler.result import PASSING, RELATIVE, RulerResult, means_over
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.verdicts import Finding, Verdict
from nemo_pi.units import plural

QUESTION = "Is the new window effective?"


def effective_context(models: Sequence[Measured[RulerResult]]) -> Verdict:
    """How far each model reads by the authors' bar, and measured by itself."""
    rule = (
        f"Effective: the longest length up to which the mean score is at least {PASSING} per cent "
        "(Llama-2-7B's at 4,096 tokens over all 13 subtasks, the bar of RULER's authors; a mean of fewer is "
        f"not the same measure). Relative: up to which it keeps {RELATIVE:.0%} of the model's own score at "
        "its original window. All of it: the effective length is the target window. Part of it: the "
        "effective length lies beyond the original window, or the relative length is the target window. "
        "None of it: neither. Not answered: nothing beyond the original window was measured, or nothing "
        "within it, where the relative length decides."
    )
    findings = tuple(_finding(model, model.result) if model.result else None for model in models)
    words = ("all of it", "part of it", "none of it")
    return Verdict(QUESTION, rule, findings, _charts(models), words)


def _finding(model: Measured[RulerResult], result: RulerResult) -> Finding:
    effective, relative, longest = (
        result.effective_length(),
        result.relative_length(),
        max(result.scores),
    )
    text = (
        f"effective length {effective:,} of {longest:,} tokens by the mean of {result.averaged()}, relative "
        f"{result.relative_text()}; at {longest:,} tokens {result.mean(longest):.1f} ± "
        f"{result.half_interval(longest):.1f} per cent"
    )
    figure = f"{effective:,} tokens"
    if longest <= model.original_window:
        return Finding("unknown", f"{text}; no length beyond the original window was tried", figure)
    if effective >= model.target_window:
        return Finding("yes", text, figure)
    if effective > model.original_window or (relative or 0) >= model.target_window:
        return Finding("partly", text, figure)
    if relative is None:
        return Finding("unknown", f"{text}; {_why_unknown(result)}", figure)
    return Finding("no", text, figure)


def _why_unknown(result: RulerResult) -> str:
    """Why there is no relative length, and what to give for one."""
    window = result.original_window
    text = f"relative length unknown: no length within the original window ({window:,} tokens) was measured"
    long = result.protocol.get("too_long", {}).get(str(window))
    if not long:
        lengths = ",".join(map(str, (window, *sorted(result.scores))))
        return f"{text}: give tasks.ruler.lengths=[{lengths}]"
    text += f"; {', '.join(long)} {'does' if len(long) == 1 else 'do'} not fit into it"
    others = [name for name in next(iter(result.scores.values())) if name not in long]
    return f"{text}: give tasks.ruler.subtasks=[{','.join(others)}]" if others else text


def _charts(models: Sequence[Measured[RulerResult]]) -> tuple[LineChart | HeatMap, ...]:
    results = [(i, model, model.result) for i, model in enumerate(models) if model.result]
    samples = " or ".join(plural(n, "prompt") for n in sorted({r.samples for _, _, r in results}))
    windows = sorted({model.original_window for model in models})
    means = LineChart(
        "RULER by length",
        f"Scores: {means_over(models)}; {samples} of each at each length. Dashed: {PASSING}, the score that "
        "counts as reading.",
        "length of prompt and answer (tokens)",
        "mean score (%)",
        tuple(
            Series(model.model, tuple((n, result.mean(n)) for n in sorted(result.scores)), i)
            for i, model, result in results
        ),
        limits=(0.0, 100.0),
        level=(PASSING, f"{PASSING}: reads"),
        marks=tuple((float(window), f"original window: {window:,}") for window in windows),
        digits=".1f",
    )
    parts = HeatMap(
        "RULER's subtasks by length",
        f"Score of each subtask in per cent, {samples} in each cell. The dashed line is the end of the "
        "original window.",
        "length (tokens)",
        "subtask",
        tuple(_panel(model, result) for _, model, result in results),
    )
    return means, parts


def _panel(model: Measured[RulerResult], result: RulerResult) -> Panel:
    lengths = sorted(result.scores)
    names = list(dict.fromkeys(name for length in lengths for name in result.scores[length]))
    return Panel(
        model.model,
        f"effective {result.effective_length():,}, relative {result.relative_text()} tokens",
        tuple(names),
        tuple(f"{length:,}" for length in lengths),
        tuple(tuple(result.scores[length].get(name) for length in lengths) for name in names),
        sum(length <= model.original_window for length in lengths),
    )
