"""Tables, verdicts and bars of the benchmarks that have no lines to draw, on numbers made up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import loss_memory, memory_estimate, profile_step
from benchmarks.training.figures import Panel, draw_panels
from benchmarks.training.profiling import KINDS

SECONDS = {loss_memory.PLAIN: [2.0, 2.2], loss_memory.OURS: [1.0, 1.1], "other": [0.5, 0.5]}
PEAKS = {loss_memory.PLAIN: 800 * 2**20, loss_memory.OURS: 100 * 2**20, "other": 200 * 2**20}


def test_loss_memory(tmp_path: Path) -> None:
    line = loss_memory.verdict(SECONDS, PEAKS)
    assert line.startswith("Ahead in time: other; in memory: nemo_pi; nemo_pi takes 8.0 times less memory")
    assert "2.00 (2.00 to 2.00) times its speed" in line
    rows = loss_memory.table(SECONDS, PEAKS, dict.fromkeys(SECONDS, 0.0))
    assert [row["memory against whole logits"] for row in rows] == ["1.0x less", "8.0x less", "4.0x less"]
    assert loss_memory.draw(SECONDS, PEAKS, tmp_path / "plot.png").stat().st_size > 10_000


def test_loss_memory_without_whole_logits() -> None:
    """They do not fit everywhere."""
    seconds = {name: SECONDS[name] for name in (loss_memory.OURS, "other")}
    assert loss_memory.verdict(seconds, PEAKS) == "Ahead in time: other; in memory: nemo_pi."
    assert (
        loss_memory.table(seconds, PEAKS, dict.fromkeys(seconds, 0.0))[0]["memory against whole logits"] == ""
    )
    assert loss_memory.verdict({}, {}).startswith("Nobody was ahead")


def test_memory_estimate(tmp_path: Path) -> None:
    line = {"model": "4x256", "tokens": 1024, "precision": "32", "loss": "auto", "recompute": "none"}
    sizes = {"estimate": 100, "measured": 120, "resident": 150}
    rows = [{**line, **sizes, memory_estimate.RATIO: ratio} for ratio in (0.83, 1.0, 1.15)]
    assert memory_estimate.verdict(rows) == (
        "2 of 3 estimates are within 15% of the measured peak (from 0.83 to 1.15 of it)."
    )
    assert memory_estimate.draw(rows, tmp_path / "plot.png").stat().st_size > 10_000


def test_a_case_that_fails_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(case: memory_estimate.Case) -> dict[str, object]:
        raise RuntimeError(f"{case.size}: status -9\nkilled")

    monkeypatch.setattr(memory_estimate, "row", fails)
    assert memory_estimate.attempt(memory_estimate.Case("2x64", 64)) == (
        [],
        "Not measured: 2x64: status -9 killed",
    )


def test_profile(tmp_path: Path) -> None:
    one = {"kinds": {kind: float(number) for number, kind in enumerate(KINDS)}}
    found = {("4x256", 1024): {"engine": one, "transformers": one}}
    assert profile_step.draw(found, tmp_path / "plot.png").stat().st_size > 10_000


def test_where_nobody_was_measured_there_is_nothing_to_draw(tmp_path: Path) -> None:
    empty = [Panel("tokens per second", []), Panel("memory", [])]
    assert draw_panels(tmp_path / "plot.png", "A step", "medians", "tokens", empty).exists()
