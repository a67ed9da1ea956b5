"""What summaries scored by length, and what that answers: whether reading more makes them better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_pi.evaluation.charts import LineChart, Series
from nemo_pi.evaluation.tasks.base import Measured, TaskResult
from nemo_pi.evaluation.verdicts import Answer, Finding, Verdict

KINDS = ("rouge1", "rouge2", "rougeL")
_NEARLY = 0.9
"""Part of its ROUGE-L within the original window that a model may keep beyond it to count as in between."""


@dataclass(frozen=True)
class Summaries(TaskResult):
    """ROUGE by length."""

    scores: dict[int, dict[str, float]]
    """Tokens of prompt and summary → kind of ROUGE → mean F measure in [0, 1]."""
    num_documents: int
    """Reports summed up at each length."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        scores = {str(length): dict(own) for length, own in self.scores.items()}
        return {"protocol": self.protocol, "num_documents": self.num_documents, "scores": scores}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Summaries:
        """Read what `to_json` returned."""
        scores = {
            int(length): {kind: float(own[kind]) for kind in KINDS}
            for length, own in content["scores"].items()
        }
        return cls(content["protocol"], scores, int(content["num_documents"]))


def rouge_l(result: Summaries | None) -> list[tuple[float, float]]:
    """(length, ROUGE-L in per cent) by ascending length; none without a result."""
    return [(n, 100 * own["rougeL"]) for n, own in sorted(result.scores.items())] if result else []


def sums_up(models: Sequence[Measured[Summaries]]) -> Verdict:
    """Whether summaries gain by what may be read beyond the original window."""
    rule = (
        "ROUGE-L at the longest length, against that at the longest within the original window (or the "
        f"shortest). Yes: at least as high. Partly: at least {_NEARLY:.0%} of it. No: less, or zero."
    )
    findings = tuple(_finding(model, model.result) if model.result else None for model in models)
    series = tuple(
        Series(model.model, tuple(points), i)
        for i, model in enumerate(models)
        if (points := rouge_l(model.result))
    )
    chart = LineChart(
        "ROUGE-L by length",
        "F measure of generated summaries against those of the file.",
        "length of prompt and summary (tokens)",
        "ROUGE-L (%)",
        series,
        digits=".1f",
    )
    return Verdict(
        "Does it sum up what it could not read before?", rule, findings, (chart,) if series else ()
    )


def _finding(model: Measured[Summaries], result: Summaries) -> Finding:
    points = rouge_l(result)
    within = [point for point in points if point[0] <= model.original_window] or points[:1]
    if not points or points[-1][0] <= model.original_window or within[-1] == points[-1]:
        return Finding("unknown", "no two lengths, within and beyond the original window, were tried")
    (short, before), (long, after) = within[-1], points[-1]
    text = f"ROUGE-L {before:.1f} at {short:,} tokens and {after:.1f} at {long:,}"
    answer: Answer = "no"
    if after > 0 and after >= _NEARLY * before:
        answer = "yes" if after >= before else "partly"
    return Finding(answer, text, f"{after:.1f} ROUGE-L")
