from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from nemo_pi.evaluation.tasks.base import Cost, TaskResult, batched


@dataclass(frozen=True)
class Counts(TaskResult):
    by_length: dict[str, int]
    words: list[str]


def test_a_result_of_plain_types_needs_no_json_of_its_own() -> None:
    result = Counts({"name": "x"}, {"8": 3}, ["a"])
    content = json.loads(json.dumps(result.to_json()))
    assert Counts.from_json(content) == result
    with pytest.raises(TypeError):
        Counts.from_json({**content, "other": 1})


def test_costs_are_said_in_words() -> None:
    assert Cost(3, 12_000).describe() == "12,000 tokens read, 3 batches"
    assert Cost(1, 1).describe() == "1 token read, 1 batch"
    assert Cost(3, 12_000, 64).describe() == "12,000 tokens read, up to 64 generated, 3 batches"
    assert Cost(3, 12_000, 64).tokens == 12_064


def test_the_last_batch_may_be_shorter() -> None:
    assert list(batched(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batched([], 2)) == []
