"""Timing in turns, medians and result files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.harness import (
    Hardware,
    alternate,
    copy_work,
    hardware,
    markdown_table,
    ratio,
    spread,
    timed,
    write_results,
)

MACHINE = Hardware("A (Fine) CPU, 2 threads", "2.13.0", 2, 0.5)


def test_spread_is_median_and_quartiles() -> None:
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.median, found.low, found.high, found.count) == (3.0, 2.0, 4.0, 5)
    assert found.text(1, scale=10) == "30.0 (20.0 to 40.0)"
    assert spread([7.0]).text() == "7.00 (7.00 to 7.00)"


def test_ratio_pairs_rounds() -> None:
    """A machine that slows down for one round slows both: the ratio stays."""
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]).text() == "2.00 (2.00 to 2.00)"
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ratio([1.0], [1.0, 2.0])


def test_runs_take_turns() -> None:
    calls: list[str] = []
    seconds = alternate(
        {name: lambda name=name: calls.append(name) for name in "abc"},  # type: ignore[misc]
        rounds=3,
        warmup=1,
    )
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert [len(times) for times in seconds.values()] == [3, 3, 3]


def test_times_are_seconds() -> None:
    assert 0.01 <= timed(lambda: time.sleep(0.01)) < 1.0


def test_copy_moves_the_bytes_it_says() -> None:
    target = copy_work(1024)()
    assert 2 * target.numel() * target.element_size() == 1024  # type: ignore[attr-defined]


def test_names_this_machine() -> None:
    machine = hardware()
    assert str(machine.threads) in machine.name and machine.torch
    assert MACHINE.slug == "a-fine-cpu-2-threads"


def test_table_is_markdown() -> None:
    lines = markdown_table([{"who": "ours", "ms": 1.23456}, {"who": "theirs", "ms": 12}]).splitlines()
    assert lines == ["| who | ms |", "| --- | ---: |", "| ours | 1.23 |", "| theirs | 12 |"]


def test_results_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_results(
        "rope",
        MACHINE,
        [{"who": "ours", "ms": 1.0}],
        "ours was ahead",
        notes=["theirs: not installed"],
        raw={"seconds": [1.0]},
        plot=lambda path: path.write_bytes(b"png"),
        folder=tmp_path / "results",
    )
    assert [path.suffix for path in files] == [".json", ".md", ".png"] and all(map(Path.exists, files))
    assert files[0].name.endswith("-rope-a-fine-cpu-2-threads.json")
    record = json.loads(files[0].read_text())
    assert record["rows"] == [{"who": "ours", "ms": 1.0}] and record["hardware"]["load"] == 0.5
    text = files[1].read_text()
    assert "| ours | 1 |" in text and "theirs: not installed" in text and files[2].name in text
    assert capsys.readouterr().out.strip().endswith("ours was ahead")
