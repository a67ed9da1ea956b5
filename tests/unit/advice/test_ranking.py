"""Candidates in order."""

from __future__ import annotations

import math

from nemo_pi.advice.ranking import Standing, rank
from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults


def standing(label: str, *perplexities: float, keys: int = 0, of_round: int = 0) -> Standing:
    by_length = {512 * 2**i: value for i, value in enumerate(perplexities)}
    grid = PasskeyGrid((512, 1024), (0.0,), 10, ((keys,), (keys,)))
    tasks = {"perplexity": PerplexityResult({}, by_length), "passkey": PasskeyResult({}, grid)}
    return Standing(label, of_round, ModelResults(label, 512, 1024, tasks))


def labels(*standings: Standing) -> list[str]:
    return [each.label for each in rank(standings)]


def test_by_loss_over_all_lengths() -> None:
    assert labels(standing("b", 30, 50), standing("c", 66, 66), standing("a", 32, 32)) == ["a", "b", "c"]
    assert math.isclose(standing("a", 2, 8).loss, math.log(4))


def test_pass_keys_decide_among_losses_that_are_nearly_alike() -> None:
    close = standing("a", 32, 32, keys=2), standing("b", 32.2, 32.2, keys=9), standing("c", 33, 33, keys=10)
    assert labels(*close) == ["b", "a", "c"]


def test_later_rounds_come_first() -> None:
    assert labels(standing("a", 1, 1), standing("b", 9, 9, of_round=1)) == ["b", "a"]


def test_infinite_and_undefined_perplexities_come_last() -> None:
    broken = standing("b", 30, math.inf), standing("c", math.nan, 30), standing("a", 99, 99)
    assert labels(*broken)[0] == "a"
    assert sorted(labels(*broken)) == ["a", "b", "c"]
