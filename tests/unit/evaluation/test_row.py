from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nemo_pi.errors import DataError
from nemo_pi.evaluation.row import EvaluationRow, PasskeyGrid, read_results, write_results

GRID = PasskeyGrid((64, 128, 256), (0.0, 0.5), 10, ((10, 9), (2, 0), (1, 10)))
ROW = EvaluationRow(
    name="PI × 8",
    original_window=64,
    target_window=256,
    perplexity={64: 7.25, 128: math.inf, 256: math.nan},
    passkey=GRID,
    k_max=128,
    protocol={"perplexity": {"name": "sliding window", "stride_tokens": 256}},
)


def test_rates() -> None:
    assert GRID.rate(64) == 0.95
    assert GRID.rate(256, 0.5) == 1.0
    assert GRID.rate(128, 0.0) == 0.2


@pytest.mark.parametrize(
    ("successes", "expected"),
    [
        (((10,), (10,), (10,)), 256),
        (((10,), (2,), (10,)), 256),  # exactly 20% suffices
        (((10,), (1,), (10,)), 64),  # a later success does not count
        (((1,), (10,), (10,)), 0),
    ],
)
def test_k_max_needs_every_shorter_length(successes: tuple[tuple[int, ...], ...], expected: int) -> None:
    assert PasskeyGrid((64, 128, 256), (0.0,), 10, successes).k_max() == expected


def test_k_max_counts_the_passkeys_farthest_from_the_question() -> None:
    assert PasskeyGrid((64, 128), (0.0, 1.0), 10, ((10, 0), (0, 10))).k_max() == 64


def test_json_round_trip(tmp_path: Path) -> None:
    bare = EvaluationRow("bare", 64, 64)
    path = write_results([ROW, bare], tmp_path / "new" / "results.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    row, bare_read = read_results(path)
    assert bare_read == bare
    assert math.isnan(row.perplexity.pop(256))
    assert row == EvaluationRow(**{**vars(ROW), "perplexity": {64: 7.25, 128: math.inf}})
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_failed_write_leaves_the_file_whole(tmp_path: Path) -> None:
    path = write_results([ROW], tmp_path / "results.json")
    before = path.read_text()
    with pytest.raises(TypeError):
        write_results([EvaluationRow("bad", 1, 1, protocol={"x": object()})], path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "other"}', '{"format": "nemo_pi evaluation 1", "rows": [{}]}']
)
def test_foreign_results_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError):
        read_results(tmp_path / "results.json")
    with pytest.raises(DataError):
        read_results(tmp_path / "missing.json")


def test_a_row_with_unknown_or_wrong_fields_is_refused() -> None:
    for change in (
        {"other": 1},
        {"perplexity": {"a": 1}},
        {"passkey": {"lengths": [1]}},
        {"perplexity": None},
    ):
        with pytest.raises(DataError, match="written by nemo_pi"):
            EvaluationRow.from_json({**ROW.to_json(), **change})
