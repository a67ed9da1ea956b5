from __future__ import annotations

import math

import pytest

from nemo_pi.evaluation.passkey import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.report import build_tables, describe_protocols, describe_windows
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.tables import thin
from nemo_pi.evaluation.tasks.perplexity import format_perplexity

GRID = PasskeyGrid((512, 1024), (0.0, 1.0), 10, ((10, 9), (2, 0)))


def model(
    name: str, target: int, by_length: dict[int, float], passkey: bool = False, summary: str = "so"
) -> ModelResults:
    perplexity = PerplexityResult({"summary": summary}, by_length)
    return ModelResults(
        name,
        512,
        target,
        {"perplexity": perplexity}
        | ({"passkey": PasskeyResult({"summary": "keys"}, GRID)} if passkey else {}),
    )


BASE = model("base", 1024, {512: 20.5, 1024: 1530.2}, passkey=True)
OTHER = model("other", 1024, {512: 21.0})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7.2, "7.20"),
        (99.94, "99.94"),
        (99.96, "100.0"),
        (112.13, "112.1"),
        (999.96, "1,000"),
        (15_300.4, "15,300"),
        (99_999.4, "99,999"),
        (1.5e6, "1.5e+06"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        (None, "–"),
    ],
)
def test_perplexities_are_short_and_exact_enough(value: float | None, expected: str) -> None:
    assert format_perplexity(value) == expected
    assert len(expected) <= 7


def test_missing_results_are_marked() -> None:
    perplexity, passkey = build_tables([BASE, OTHER])
    assert perplexity.header == ("model", "512", "1,024")
    assert perplexity.lines == (("base", "20.50", "1,530"), ("other", "21.00", "–"))
    assert passkey.header == ("model", "512", "1,024", "k_max")
    assert passkey.lines == (("base", "95%", "10%", "1,024"), ("other", "–", "–", "–"))


def test_a_measurement_nobody_made_has_no_table() -> None:
    assert [table.header[-1] for table in build_tables([OTHER])] == ["512"]
    assert build_tables([ModelResults("bare", 1, 1)]) == []


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (3, [1, 2, 3]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (9, [1, 3, 5, 7, 9]),
        (32, [4, 8, 12, 16, 20, 24, 28, 32]),
    ],
)
def test_too_many_lengths_are_thinned_and_the_last_stays(count: int, expected: list[int]) -> None:
    assert thin(list(range(1, count + 1))) == expected
    assert thin(tuple(range(1, count + 1))) == expected


def test_what_all_rows_share_is_said_once() -> None:
    assert describe_windows([BASE, OTHER]) == "Original window 512 tokens, evaluated up to 1,024"
    assert describe_protocols([BASE, OTHER]) == ["Perplexity: so", "Passkey: keys"]


def test_what_rows_do_not_share_is_said_of_each() -> None:
    longer = model("longer", 4096, {}, summary="otherwise")
    assert describe_windows([BASE, longer]) == "base: 512 → 1,024 tokens; longer: 512 → 4,096 tokens"
    assert describe_protocols([BASE, longer]) == [
        "Perplexity of base: so",
        "Perplexity of longer: otherwise",
        "Passkey: keys",
    ]
