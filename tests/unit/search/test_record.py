"""What a search keeps on disk: read back, cut off, foreign."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.search.record import Record

SUBJECT = {"target_window": 4096, "documents": ["ab12"]}


def test_ratings_come_back_to_the_last_bit(tmp_path: Path) -> None:
    record = Record(tmp_path / "ratings.jsonl", SUBJECT)
    record.add((100, 250), 0.1 + 0.2)
    record.add((100, 251), math.inf)
    assert Record(record.path, SUBJECT).ratings == {(100, 250): 0.1 + 0.2, (100, 251): math.inf}


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    record = Record(tmp_path / "ratings.jsonl", SUBJECT)
    record.add((100,), 1.5)
    whole = record.path.read_bytes()
    record.path.write_bytes(whole + b'{"hundredths": [100, 2')
    again = Record(record.path, SUBJECT)
    assert again.ratings == {(100,): 1.5}
    again.add((200,), 2.5)
    assert Record(record.path, SUBJECT).ratings == {(100,): 1.5, (200,): 2.5}


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    record = Record(tmp_path / "ratings.jsonl", SUBJECT, writes=False)
    record.add((100,), 1.5)
    assert record.ratings == {(100,): 1.5} and not record.path.exists()


def test_another_search_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "ratings.jsonl"
    Record(path, SUBJECT).add((100,), 1.5)
    with pytest.raises(ConfigError, match=r"target_window: required 8192, .*given 4096 .*--results"):
        Record(path, {**SUBJECT, "target_window": 8192})
    assert Record(path, SUBJECT).ratings == {(100,): 1.5}
    with pytest.raises(ConfigError, match=r"documents: required None, .*--results"):
        Record(path, {"target_window": 4096})


@pytest.mark.parametrize(
    "line", ["[1]", "{", '{"hundredths": [1.5], "perplexity": 2}', '{"hundredths": [1]}']
)
def test_a_line_that_is_none_of_ours_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ratings.jsonl"
    Record(path, SUBJECT)
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=r"ratings\.jsonl, line 2: required a line of a search"):
        Record(path, SUBJECT)
