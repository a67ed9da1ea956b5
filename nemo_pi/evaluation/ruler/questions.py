"""RULER's question answering: the paragraph with the answer among others (arXiv 2404.06654, §3.4)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.records import read_records
from nemo_pi.evaluation.ruler.sample import Maker, Sample

TASK = (
    "Answer the question based on the given documents. "
    "Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\n"
    "Answer the question based on the given documents. "
    "Only give me the answer and do not output any other words.\n\n"
    "Question: {question} Answer:"
)


@dataclass(frozen=True)
class Question:
    """A question that some paragraphs answer."""

    question: str
    """As it is asked."""
    answers: tuple[str, ...]
    """Any one suffices."""
    paragraphs: tuple[str, ...]
    """Those that answer it."""


@dataclass(frozen=True)
class QuestionAnswering(Maker):
    """Questions of a file, one after the other, among paragraphs of the others."""

    new_tokens = 32
    any_of = True
    questions: Sequence[Question]
    """From read_questions."""

    @property
    def least(self) -> int:
        """No paragraph of another question."""
        return 0

    @property
    def most(self) -> int:
        """Every paragraph there is, but for the question's own."""
        return len({paragraph for question in self.questions for paragraph in question.paragraphs})

    def make(self, rng: random.Random, size: int, number: int) -> Sample:
        """`size` paragraphs beside the question's own."""
        asked = self.questions[number % len(self.questions)]
        every = dict.fromkeys(paragraph for other in self.questions for paragraph in other.paragraphs)
        others = [paragraph for paragraph in every if paragraph not in asked.paragraphs]
        shown = [*asked.paragraphs, *rng.sample(others, min(size, len(others)))]
        rng.shuffle(shown)
        context = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(shown, start=1))
        return Sample(TASK.format(context=context, question=asked.question), asked.answers)


def read_questions(path: Path) -> list[Question]:
    """Questions of a JSON-lines file: {"question": …, "answers": […], "paragraphs": […]}, one a line.

    Raises:
        DataError: no such file, or a line that is not what it should be.
    """
    example = '{"question": "…", "answers": ["…"], "paragraphs": ["…"]}'
    return read_records(path, "question", "tasks.ruler.questions", example, _question)


def _question(content: Any) -> Question:
    question, answers, paragraphs = (content[key] for key in ("question", "answers", "paragraphs"))
    if not all(isinstance(values, list) and values for values in (answers, paragraphs)):
        raise TypeError("answers and paragraphs must be lists that are not empty")
    if not all(isinstance(text, str) and text for text in (question, *answers, *paragraphs)):
        raise TypeError("texts must be strings that are not empty")
    return Question(question, tuple(answers), tuple(paragraphs))
