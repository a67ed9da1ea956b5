"""RULER's thirteen tasks by name, with the authors' settings (arXiv 2404.06654, table 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.evaluation.ruler.niah import Needles
from nemo_pi.evaluation.ruler.questions import Question, QuestionAnswering
from nemo_pi.evaluation.ruler.sample import Maker
from nemo_pi.evaluation.ruler.tracking import VariableTracking
from nemo_pi.evaluation.ruler.words import CommonWords, FrequentWords


@dataclass(frozen=True)
class Material:
    """What prompts are made of."""

    prose: Sequence[str] = ()
    """Words of a text in place of the authors' essays."""
    questions: Mapping[str, Sequence[Question]] = field(default_factory=dict)
    """Name out of OF_QUESTIONS → its questions."""


@cache
def words_of(*categories: str) -> tuple[str, ...]:
    """The English words that RULER draws from, in alphabetical order.

    Raises:
        BackendUnavailableError: the package wonderwords is not installed.
    """
    try:
        from wonderwords import RandomWord
    except ImportError as error:
        raise BackendUnavailableError(
            "tasks.ruler",
            required="the package wonderwords: keys and lists are made of its words",
            given=f"none ({error})",
            fix="pip install wonderwords, or leave the task out: tasks.ruler=false",
        ) from error
    return tuple(sorted(set(RandomWord().filter(include_categories=list(categories)))))


def _needles(hay: str, **settings: int | str) -> Callable[[Material, int], Maker]:
    def make(material: Material, length: int) -> Maker:
        return Needles(words_of("adjective"), words_of("noun"), hay, material.prose, **settings)  # type: ignore[arg-type]

    return make


SUBTASKS: dict[str, Callable[[Material, int], Maker]] = {
    "niah_single_1": _needles("filler"),
    "niah_single_2": _needles("prose"),
    "niah_single_3": _needles("prose", value_kind="uuids"),
    "niah_multikey_1": _needles("prose", keys=4),
    "niah_multikey_2": _needles("needles"),
    "niah_multikey_3": _needles("needles", key_kind="uuids", value_kind="uuids"),
    "niah_multivalue": _needles("prose", values=4),
    "niah_multiquery": _needles("prose", keys=4, queries=4),
    "vt": lambda material, length: VariableTracking(),
    "cwe": lambda material, length: CommonWords(words_of("noun", "adjective", "verb"), length),
    "fwe": lambda material, length: FrequentWords(length),
    # The authors' are of SQuAD's and of HotpotQA's questions; here the files decide.
    "qa_1": lambda material, length: QuestionAnswering(material.questions["qa_1"]),
    "qa_2": lambda material, length: QuestionAnswering(material.questions["qa_2"]),
}
"""Name → its maker, of material and the tokens of prompt and answer."""
OF_PROSE = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
"""Subtasks whose haystack is the authors' essays, here other prose."""
OF_QUESTIONS = ("qa_1", "qa_2")
"""Subtasks that need a file of questions each."""
