"""Verdicts follow from numbers and thresholds, at the thresholds as well."""

from __future__ import annotations

import math

import pytest

from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.ruler.result import RulerResult
from nemo_pi.evaluation.summary_verdict import KINDS, Summaries
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.tasks.lm_eval import LmEval, LmEvalResult
from nemo_pi.evaluation.tasks.longppl import LongPpl, LongPplResult
from nemo_pi.evaluation.tasks.needle import Needle
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.evaluation.tasks.position_loss import PositionLoss, PositionLossResult
from nemo_pi.evaluation.tasks.registry import task_names, task_type
from nemo_pi.evaluation.tasks.ruler import Ruler
from nemo_pi.evaluation.tasks.short import Short
from nemo_pi.evaluation.tasks.summarization import Summarization
from nemo_pi.evaluation.verdicts import Finding, Verdict, in_words

WINDOW, TARGET = 512, 2048
SAME = {"summary": "the same tokens"}


def measured(*results: object) -> list[Measured[object]]:
    return [Measured(f"model {i}", WINDOW, TARGET, result) for i, result in enumerate(results)]


def answers(task: object, *results: object, question: int = 0) -> list[str | None]:
    verdict = task.verdicts(measured(*results))[question]  # type: ignore[attr-defined]
    return [finding and finding.answer for finding in verdict.findings]


def perplexity(*values: float, protocol: dict[str, str] = SAME) -> PerplexityResult:
    return PerplexityResult(protocol, dict(zip((512, 1024, 2048), values, strict=False)))


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ((20.0, 19.0, 18.0), "yes"),
        ((20.0, 22.0, 22.0), "yes"),  # 1.1 times its own
        ((20.0, 22.0, 22.01), "partly"),
        ((20.0, 22.01, 18.0), "no"),  # up to a length means at every one before it
        ((25.0, 25.0, 25.0), "yes"),  # 1.25 times the first model's
        ((25.01, 25.01, 25.01), "no"),  # it reads all of it badly
        ((20.0, math.nan, 18.0), "no"),
        ((20.0, 20.0, math.inf), "partly"),
        ((20.0,), "unknown"),
    ],
)
def test_reading_further(values: tuple[float, ...], answer: str) -> None:
    first = perplexity(20.0, 40.0, 80.0)
    assert answers(Perplexity, first, perplexity(*values)) == ["no", answer]


def test_reading_is_compared_with_like_only() -> None:
    other = perplexity(40.0, 40.0, 40.0, protocol={"summary": "other tokens"})
    assert answers(Perplexity, perplexity(20.0, 40.0, 80.0), other) == ["no", "yes"]
    assert answers(Perplexity, perplexity(20.0, 40.0, 80.0), other, question=1) == ["reference", "unknown"]
    assert answers(Perplexity, None, perplexity(20.0, 20.0, 20.0)) == [None, "yes"]


@pytest.mark.parametrize(
    ("value", "answer"),
    [(19.0, "yes"), (20.4, "yes"), (20.41, "partly"), (22.0, "partly"), (22.01, "no"), (math.nan, "no")],
)
def test_cost_within_the_old_window(value: float, answer: str) -> None:
    for task, question in ((Short, 0), (Perplexity, 1)):
        found = answers(task, perplexity(20.0), perplexity(value), question=question)
        assert found == ["reference", answer]


def passkey(*rates: tuple[int, int], lengths: tuple[int, ...] = (512, 1024, 2048)) -> PasskeyResult:
    """Of ten trials at depths 0 and 1, by length."""
    return PasskeyResult(SAME, PasskeyGrid(lengths, (0.0, 1.0), 10, rates))


@pytest.mark.parametrize(
    ("rates", "answer"),
    [
        (((10, 10), (8, 10), (8, 10)), "yes"),
        (((10, 10), (8, 10), (7, 10)), "partly"),  # not everywhere
        (((10, 10), (10, 10), (1, 10)), "partly"),  # k_max 1,024
        (((10, 10), (0, 8), (0, 0)), "partly"),  # a fifth of all
        (((10, 10), (0, 7), (0, 0)), "no"),
        (((0, 0), (1, 0), (1, 0)), "no"),
    ],
)
def test_retrieval_from_anywhere(rates: tuple[tuple[int, int], ...], answer: str) -> None:
    assert answers(Passkey, passkey(*rates)) == [answer] == answers(Needle, passkey(*rates))


def test_retrieval_needs_lengths_beyond_the_window() -> None:
    assert answers(Passkey, passkey((10, 10), lengths=(512,)), None) == ["unknown", None]
    # All found, but not as far as the target window.
    assert answers(Passkey, passkey((10, 10), (10, 10), lengths=(512, 1024))) == ["partly"]


@pytest.mark.parametrize(
    ("scores", "answer"),
    [
        ((0.9, 0.856, 0.856), "yes"),
        ((0.9, 0.86, 0.85), "partly"),
        ((0.6, 0.51, 0.51), "partly"),  # 85% of its own
        ((0.6, 0.51, 0.5), "no"),
        ((0.9, 0.5, 0.9), "no"),
    ],
)
def test_effective_context(scores: tuple[float, ...], answer: str) -> None:
    by_length = {n: {"vt": score} for n, score in zip((512, 1024, 2048), scores, strict=True)}
    assert answers(Ruler, RulerResult(SAME, by_length, 100, WINDOW)) == [answer]
    assert answers(Ruler, RulerResult(SAME, {512: {"vt": 1.0}}, 100, WINDOW)) == ["unknown"]


@pytest.mark.parametrize(
    ("beyond", "answer"), [(2.9, "yes"), (3.019, "yes"), (3.05, "partly"), (3.11, "no"), (math.nan, "no")]
)
def test_use_of_what_was_read(beyond: float, answer: str) -> None:
    result = PositionLossResult(SAME, {256: 9.0, 512: 3.0, 1024: beyond, 2048: beyond})
    assert answers(PositionLoss, result) == [answer]
    assert answers(PositionLoss, PositionLossResult(SAME, {512: 3.0})) == ["unknown"]


@pytest.mark.parametrize(
    ("keys", "answer"), [(110, "yes"), (109, "partly"), (90, "partly"), (89, "no"), (0, "no")]
)
def test_tokens_that_need_long_context(keys: int, answer: str) -> None:
    def result(number: int, of: int = 1000) -> LongPplResult:
        return LongPplResult(SAME, 2.0, 3.0, number, of)

    assert answers(LongPpl, result(100), result(keys)) == ["reference", answer]
    assert answers(LongPpl, result(100), result(keys, 999), None)[1:] == ["unknown", None]


def test_scores_of_other_benchmarks() -> None:
    def result(accuracy: float, perplexity: float, error: float | None = 0.01) -> LmEvalResult:
        own = {"acc,none": accuracy, "acc_stderr,none": error}
        own |= {"perplexity,none": perplexity, "perplexity_stderr,none": error and 0.1}
        return LmEvalResult(SAME, {"lambada": own})

    first = result(0.6, 10.0)
    assert answers(LmEval, first, result(0.58, 10.2)) == ["reference", "yes"]
    assert answers(LmEval, first, result(0.57, 10.0)) == ["reference", "no"]
    assert answers(LmEval, first, result(0.7, 10.3)) == ["reference", "no"]  # lower is better there
    (verdict,) = LmEval.verdicts(measured(first, result(0.57, 10.0)))
    assert verdict.findings[0].text == "2 scores; what the others are compared with"
    assert verdict.findings[1].text == "worse than the first model: lambada acc 0.57 for 0.6"
    assert answers(LmEval, first, result(0.1, 10.0, None)) == ["reference", "unknown"]


@pytest.mark.parametrize(
    ("after", "answer"), [(0.2, "yes"), (0.18, "partly"), (0.179, "no"), (0.0, "no"), (0.3, "yes")]
)
def test_summing_up(after: float, answer: str) -> None:
    def scores(value: float) -> dict[str, float]:
        return dict.fromkeys(KINDS, value)

    assert answers(Summarization, Summaries(SAME, {512: scores(0.2), 2048: scores(after)}, 9)) == [answer]
    assert answers(Summarization, Summaries(SAME, {512: scores(0.2)}, 9), None) == ["unknown", None]


def test_answers_in_words() -> None:
    found = (Finding("yes", "a"), None, Finding("no", "b"), Finding("yes", "c"), Finding("reference", "d"))
    verdict = Verdict("Is it kept?", "so", found, words=("kept", "nearly", "lost"))
    assert in_words(verdict, ["A", "B", "C", "D", "E"]) == "Kept: A; D. Lost: C."


def test_every_task_of_ours_answers_something() -> None:
    for name in task_names():
        assert "verdicts" in vars(task_type(name)), name
