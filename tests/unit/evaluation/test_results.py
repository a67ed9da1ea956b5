from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults, read_results, write_results

GRID = PasskeyGrid((64, 128, 256), (0.0, 0.5), 10, ((10, 9), (2, 0), (1, 10)))
PROTOCOL = {"name": "sliding window", "stride_tokens": 256}
MODEL = ModelResults(
    "PI × 8",
    64,
    256,
    {
        "perplexity": PerplexityResult(PROTOCOL, {64: 7.25, 128: math.inf, 256: math.nan}),
        "passkey": PasskeyResult({"seed": 5}, GRID),
    },
)
# What the format before this one holds of the same model.
ROW_1: dict[str, Any] = {
    "name": "PI × 8",
    "original_window": 64,
    "target_window": 256,
    "perplexity": {"64": 7.25, "128": "inf", "256": "nan"},
    "passkey": {
        "lengths": [64, 128, 256],
        "depths": [0.0, 0.5],
        "num_trials": 10,
        "successes": [[10, 9], [2, 0], [1, 10]],
    },
    "k_max": 128,
    "protocol": {"perplexity": PROTOCOL, "passkey": {"seed": 5}},
}


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


def assert_same(read: ModelResults, expected: ModelResults) -> None:
    """NaN equals nothing, so it is taken out first."""
    tasks = {name: result.to_json() for name, result in read.tasks.items()}
    assert tasks == {name: result.to_json() for name, result in expected.tasks.items()}
    perplexity = read.tasks["perplexity"]
    assert isinstance(perplexity, PerplexityResult) and math.isnan(perplexity.by_length.pop(256))
    assert perplexity == PerplexityResult(PROTOCOL, {64: 7.25, 128: math.inf})
    assert read.tasks["passkey"] == expected.tasks["passkey"]
    assert (read.name, read.original_window, read.target_window) == ("PI × 8", 64, 256)


def test_json_round_trip(tmp_path: Path) -> None:
    bare = ModelResults("bare", 64, 64)
    path = write_results([MODEL, bare], tmp_path / "new" / "results.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    read, bare_read = read_results(path)
    assert bare_read == bare
    assert_same(read, MODEL)
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_results_of_the_format_before_are_still_read(tmp_path: Path) -> None:
    bare = {"name": "bare", "original_window": 64, "target_window": 64, "protocol": {}, "k_max": None}
    rows = [ROW_1, {**bare, "perplexity": {}, "passkey": None}]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": "nemo_pi evaluation 1", "rows": rows}))
    read, bare_read = read_results(path)
    assert bare_read == ModelResults("bare", 64, 64)
    assert_same(read, MODEL)


def test_a_failed_write_leaves_the_file_whole(tmp_path: Path) -> None:
    path = write_results([MODEL], tmp_path / "results.json")
    before = path.read_text()
    with pytest.raises(TypeError):
        write_results(
            [ModelResults("bad", 1, 1, {"perplexity": PerplexityResult({"x": object()}, {})})], path
        )
    assert path.read_text() == before


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": "other"}',
        '{"format": "nemo_pi evaluation 1", "rows": [{}]}',
        '{"format": "nemo_pi evaluation 1"}',
        '{"format": "nemo_pi evaluation 1", "rows": null}',
        '{"format": "nemo_pi evaluation 1", "rows": {"a": 1}}',
        '{"format": "nemo_pi evaluation 1", "rows": [3]}',
        '{"format": ["nemo_pi evaluation 2"]}',
        '{"format": "nemo_pi evaluation 2"}',
        '{"format": "nemo_pi evaluation 2", "models": 5}',
        '{"format": "nemo_pi evaluation 2", "models": null}',
        '{"format": "nemo_pi evaluation 2", "models": [3]}',
        '{"format": "nemo_pi evaluation 2", "models": [{}]}',
        '{"format": "nemo_pi evaluation 2", "models": [{"name": "a", "tasks": {}}]}',
        '{"format": "nemo_pi evaluation 2", "models": [{"name": "a", "original_window": "64",'
        ' "target_window": 64, "tasks": {}}]}',
        '{"format": "nemo_pi evaluation 2", "models": [{"name": "a", "original_window": 64,'
        ' "target_window": 64, "tasks": {"perplexity": 5}}]}',
        pytest.param("[" * 100_000, id="nested"),
    ],
)
def test_foreign_results_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError):
        read_results(tmp_path / "results.json")
    with pytest.raises(DataError):
        read_results(tmp_path / "missing.json")


def test_a_row_with_unknown_or_wrong_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for change in (
        {"other": 1},
        {"perplexity": {"a": 1}},
        {"passkey": {"lengths": [1]}},
        {"perplexity": None, "protocol": None, "passkey": 1},
    ):
        path.write_text(json.dumps({"format": "nemo_pi evaluation 1", "rows": [{**ROW_1, **change}]}))
        with pytest.raises(DataError, match="written by nemo_pi"):
            read_results(path)


@pytest.mark.parametrize(
    "change",
    [
        {"other": 1},
        {"tasks": None},
        {"tasks": {"perplexity": {"protocol": {}, "by_length": {"a": 1}}}},
        {"tasks": {"perplexity": {"protocol": {}, "by_length": {}, "other": 1}}},
        {"tasks": {"passkey": {"protocol": {}, "grid": {"lengths": [1]}}}},
    ],
)
def test_unknown_or_wrong_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="written by nemo_pi"):
        ModelResults.from_json({**MODEL.to_json(), **change})


def test_a_task_that_is_not_known_here_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'passkey'"):
        ModelResults.from_json({**MODEL.to_json(), "tasks": {"pass_key": {}}})
