"""Contestants of the evaluation's race measure the same thing, and a busy machine gives no verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import evaluation_speed as race

pytestmark = pytest.mark.usefixtures("one_rank")


def test_contestants_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "READ", 768)
    race.prepare(tmp_path, 512)
    found = {}
    for task, names in race.CONTESTANTS.items():
        for name in names:
            measure, tokens = race.contestant(task, name, 256, tmp_path)
            assert tokens == 768
            found[task, name] = measure()
    for name in race.CONTESTANTS["perplexity"]:
        # lm-eval scores the first token, too, behind its own beginning of text.
        near = 0.05 if name == race.LM_EVAL else 1e-5
        assert found["perplexity", name] == pytest.approx(found["perplexity", race.LOOP], rel=near)
    assert len({found["passkey", name] for name in race.CONTESTANTS["passkey"]}) == 1


def test_a_table_and_a_verdict() -> None:
    runs = {"a": [{"seconds": 2.0, "mib": 10.0, "result": 1.5, "tokens": 100}], "b": []}
    runs["b"] = [{**runs["a"][0], "seconds": 1.0}]
    rows = race.table("perplexity", 4096, runs)
    assert [row["tokens/s"] for row in rows] == ["50 (50 to 50)", "100 (100 to 100)"]
    assert race.verdict({"perplexity at 4096": runs}, busy=False) == "Fastest: perplexity at 4096: b."
    assert race.verdict({"perplexity at 4096": runs}, busy=True).startswith("No verdict")
