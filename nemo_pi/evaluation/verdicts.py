"""What a task's numbers say: a question, the rule that answers it, and an answer for each model.

Answers follow from numbers and from thresholds that the rule states, never from taste: the same results give
the same words, and a checkpoint that computes something else gets another answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nemo_pi.evaluation.charts import Chart

Answer = Literal["yes", "partly", "no", "reference", "unknown"]
"""reference: what the other models are compared with; unknown: measured, but in a way that cannot answer."""

ANSWERED: tuple[Answer, ...] = ("yes", "partly", "no", "unknown")
"""Answers that name models, the best first."""


@dataclass(frozen=True)
class Finding:
    """What the numbers say of one model."""

    answer: Answer
    """In a word."""
    text: str
    """Why: the numbers that decide, as a clause without a full stop."""
    figure: str = ""
    """The one number to remember, at most some twelve characters: `4,096 tokens`, `1.02×`."""


@dataclass(frozen=True)
class Verdict:
    """One question of the report."""

    question: str
    """As a reader would ask it, with its question mark; tasks that answer the same share a section."""
    rule: str
    """What counts as yes, partly and no, with the thresholds."""
    findings: tuple[Finding | None, ...]
    """One for each model, in the report's order; None where the task was not run on it."""
    charts: tuple[Chart, ...] = ()
    """What shows it; the report draws them. Empty: the picture that the task's `plot` makes."""
    words: tuple[str, str, str] = ("yes", "partly", "no")
    """What the question's answers are called: the best, one in between, the worst."""

    def word(self, answer: Answer) -> str:
        """What an answer is called here."""
        named = dict(zip(("yes", "partly", "no"), self.words, strict=True))
        return named.get(answer) or ("baseline" if answer == "reference" else "not answered")


def in_words(verdict: Verdict, models: Sequence[str]) -> str:
    """Return the verdict in a sentence for each answer that was found: `Yes: PI; YaRN. No: base model.`

    Args:
        verdict: of the models.
        models: their names, in the same order.
    """
    parts = []
    for answer in ANSWERED:
        pairs = zip(verdict.findings, models, strict=True)
        names = [name for finding, name in pairs if finding is not None and finding.answer == answer]
        if names:
            word = verdict.word(answer)
            parts.append(f"{word[0].upper()}{word[1:]}: {'; '.join(names)}.")
    return " ".join(parts)
