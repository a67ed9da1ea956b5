"""What a stopped run leaves, and that the next one goes on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import Hardware
from benchmarks.train_step import cells, kept, parse, write
from benchmarks.training.race import Outcome

MACHINE = Hardware("A CPU, 2 threads", "2.13.0", 2, 0.0)
NAMES = ["transformers", "nemo_pi"]


def test_a_stopped_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = parse(["--results", str(tmp_path), "--resume"])
    assert kept(args, MACHINE, NAMES) == {}
    ran = Outcome([1.0, 1.1], [5.0, 4.0], 400.0, 900.0)
    results = {
        ("4x256", 1024): {"transformers": ran, "nemo_pi": ran, "litgpt": Outcome(failure="litgpt: killed")},
        ("4x256", 4096): {"transformers": ran},
    }
    data, text, _ = write(args, MACHINE, results, [], remaining=3)
    assert "Not finished: 3 more sizes and lengths." in json.loads(data.read_text())["notes"]
    assert "| 4x256 | 4096 | transformers |" in text.read_text() and not capsys.readouterr().out
    assert kept(args, MACHINE, NAMES) == {("4x256", 1024): results["4x256", 1024]}
    assert set(kept(args, MACHINE, ["transformers"])) == set(results)
    assert kept(parse(["--results", str(tmp_path)]), MACHINE, NAMES) == {}


def test_long_steps_are_fewer() -> None:
    """The default takes two of the largest and seven of the smallest."""
    rounds = {(cell.size, cell.length): cell.rounds for cell in cells(parse([]))}
    assert rounds["4x256", 1024] == 7 > rounds["4x256", 4096] > rounds["4x256", 16384] == 2
    assert rounds["8x512", 4096] == 2
    assert {cell.rounds for cell in cells(parse(["--rounds", "3"]))} == {3}
