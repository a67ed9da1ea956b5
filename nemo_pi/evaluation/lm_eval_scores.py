"""What lm-eval reports, score by score, and whether a model keeps the scores of another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_pi.evaluation.charts import Bar, BarChart
from nemo_pi.evaluation.tasks.base import Measured, TaskResult
from nemo_pi.evaluation.verdicts import Finding, Verdict
from nemo_pi.units import plural

_LOWER_IS_BETTER = (
    "perplexity",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
    "loss",
    "brier",
    "ter",
)
"""How metrics begin that are to be low, for results that do not say so themselves."""
MOST_SCORES = 16
"""Drawn; the table holds all of them."""


@dataclass(frozen=True)
class LmEvalResult(TaskResult):
    """What the harness reports."""

    metrics: dict[str, dict[str, float | None]]
    """Task → metric → value; None where it is no finite number."""
    higher_is_better: dict[str, dict[str, bool]] = field(default_factory=dict)
    """Task → metric without its filter → whether large values are the good ones, where lm-eval says so."""


@dataclass(frozen=True)
class Score:
    """One number of a task."""

    task: str
    """lm-eval's name of the task or group."""
    metric: str
    """lm-eval's name, behind the comma the filter of the answers."""
    value: float
    """Finite."""
    error: float | None
    """Its standard error; None where lm-eval knows none."""
    lower_is_better: bool
    """Whether a smaller value is the better one."""

    @property
    def name(self) -> str:
        """As tables and charts say it."""
        return f"{self.task} {self.metric.removesuffix(',none')}"


def read_results(found: Mapping[str, Any], protocol: dict[str, Any]) -> LmEvalResult:
    """Return what lm-eval's `evaluate` found, as far as it is a score or the error of one."""
    return LmEvalResult(
        protocol,
        {
            task: {name: _number(value) for name, value in own.items() if "," in name}
            for task, own in {**found["results"], **found.get("groups", {})}.items()
        },
        {
            task: {name: value for name, value in own.items() if isinstance(value, bool)}
            for task, own in found.get("higher_is_better", {}).items()
        },
    )


def scores_of(result: LmEvalResult) -> Iterator[Score]:
    """Every score, in lm-eval's order."""
    for task, metrics in result.metrics.items():
        for metric, value in metrics.items():
            name, comma, kind = metric.partition(",")
            if value is None or not comma or name.endswith("_stderr"):
                continue
            higher = result.higher_is_better.get(task, {}).get(name, not name.startswith(_LOWER_IS_BETTER))
            yield Score(task, metric, value, metrics.get(f"{name}_stderr,{kind}"), not higher)


def kept_scores(models: Sequence[Measured[LmEvalResult]]) -> Verdict:
    """Say whether each model keeps the first one's scores, as far as their errors are known."""
    rule = (
        "Scores that come with a standard error, against the first model's. Kept: none is worse by "
        "more than twice the standard error of the difference. Lost: one is. Scores without an error "
        "decide nothing."
    )
    found = tuple(
        None if m.result is None else _finding(i, m.result, models[0].result) for i, m in enumerate(models)
    )
    words = ("kept", "partly kept", "lost")
    return Verdict("Are the scores of other benchmarks kept?", rule, found, score_charts(models), words)


def score_charts(models: Sequence[Measured[LmEvalResult]]) -> tuple[BarChart, ...]:
    """Return the scores as bars: one chart of all shares, and one for each metric of another scale."""
    by_name: dict[str, list[tuple[int, Score]]] = {}
    for place, model in enumerate(models):
        for score in scores_of(model.result) if model.result else ():
            by_name.setdefault(score.name, []).append((place, score))
    asked = {name for model in models if model.result for name in model.result.protocol.get("tasks", ())}
    # A group's parts stand behind it.
    names = sorted(by_name, key=lambda name: by_name[name][0][1].task not in asked)
    charts: dict[str, list[Bar]] = {}
    for name in names[:MOST_SCORES]:
        own = by_name[name]
        share = all(0 <= score.value <= 1 and not score.lower_is_better for _, score in own)
        metric = own[0][1].metric.partition(",")[0]
        bars = charts.setdefault("score" if share else metric, [])
        bars += [_bar(place, score, models[place].model if len(models) > 1 else "") for place, score in own]
    left_out = f" The first {MOST_SCORES} of {len(names)} scores." if len(names) > MOST_SCORES else ""
    return tuple(
        BarChart(
            "Scores of lm-eval's tasks" if label == "score" else f"lm-eval's tasks: {label}",
            f"Lines reach two standard errors to either side.{left_out}",
            label,
            tuple(bars),
        )
        for label, bars in charts.items()
    )


def _bar(place: int, score: Score, model: str) -> Bar:
    error = None if score.error is None else 2 * score.error
    text = f"{score.value:.4g}" if error is None else f"{score.value:.4g} ± {error:.2g}"
    return Bar(f"{score.name}, {model}" if model else score.name, score.value, text, place, error)


def _finding(index: int, own: LmEvalResult, first: LmEvalResult | None) -> Finding:
    count = plural(sum(1 for _ in scores_of(own)), "score")
    if index == 0:
        return Finding("reference", f"{count}; what the others are compared with", count)
    before = {} if first is None else {score.name: score for score in scores_of(first)}
    pairs = [(score, before[score.name]) for score in scores_of(own) if score.name in before]
    compared = [pair for pair in pairs if None not in (pair[0].error, pair[1].error)]
    lost = [
        f"{score.task} {score.metric.partition(',')[0]} {score.value:.4g} for {theirs.value:.4g}"
        for score, theirs in compared
        if _is_worse(score, theirs)
    ]
    if not compared:
        return Finding("unknown", f"{count}, none with a standard error beside the first model's", count)
    if lost:
        text = f"worse than the first model: {'; '.join(lost)}"
        return Finding("no", text, f"{len(lost)} of {len(compared)} lost")
    text = f"none of {plural(len(compared), 'score')} is worse beyond its error"
    return Finding("yes", text, f"{len(compared)} kept")


def _is_worse(score: Score, theirs: Score) -> bool:
    """Beyond twice the standard error of the difference."""
    less = score.value - theirs.value if score.lower_is_better else theirs.value - score.value
    return less > 2 * math.hypot(score.error or 0.0, theirs.error or 0.0)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
