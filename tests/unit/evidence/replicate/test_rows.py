"""Every row can pass and can fail: a measurement that is faked worse changes its verdict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evidence.replicate.job import ROWS, write
from evidence.replicate.lab import EARLIER, Lab
from evidence.replicate.row import DIFFERS, FAIL, MISSING, PASS, Row, judge

COSTS = {
    "PoSE to 4,096": {"seconds": 1.0, "bytes": 1e9, "tokens": 4096},
    "PoSE to 32,768": {"seconds": 1.01, "bytes": 1.01e9, "tokens": 4096},
    "full length, 4,096": {"seconds": 2.0, "bytes": 1.1e9, "tokens": 4096},
}
GOOD: dict[str, dict[str, float]] = {
    "falls": {"at 512": 34.0, "at 1,024": 33.0, "at 2,048": 32.0, "at 4,096": 31.0},
    "base": {"within": 30.0, "at twice the window": 60.0},
    "steps": {"0 steps": 66.0, "50 steps": 38.0, "enough": 33.0, "300 steps": 32.0},
    "direct": {"PI": 4096, "direct": 600},
    "passkey": {"k_max": 4096, "found": 0.9},
    "short": {"PI ÷ base": 1.02, "direct ÷ base": 1.01},
    "bound": {"printed": 0.5, "reached": 0.49, "corrected": 0.5, "ratio as printed": 601},
    "figure2": {"within": 1.0, "extrapolated": 9000.0, "interpolated": 1.1},
    "pose": {"PoSE ÷ full length": 1.01, "randomised ÷ full length": 2.0},
    "flat": {
        "seconds to 32,768 ÷ to 4,096": 1.01,
        "memory to 32,768 ÷ to 4,096": 1.01,
        "seconds a token, full ÷ PoSE": 2.0,
    },
    "compatible": {"PI": 0.9, "NTK-aware": 0.95, "YaRN": 0.99},
    "families": {"LLaMA": -0.5, "GPT-J": -0.4},
    "untrained": {"PI": 66.0, "NTK-aware": 50.0, "YaRN": 32.0},
    "free": {"PI": 2.2, "NTK-aware": 1.03, "YaRN": 1.06},
}
WORSE: dict[str, dict[str, float]] = {
    "falls": {"at 4,096": 40.0},
    "base": {"at twice the window": 31.0},
    "steps": {"300 steps": 20.0},
    "direct": {"direct": 4096},
    "passkey": {"k_max": 512},
    "short": {"PI ÷ base": 1.2},
    "bound": {"reached": 0.51},
    "figure2": {"extrapolated": 1.0},
    "pose": {"PoSE ÷ full length": 1.1},
    "flat": {"memory to 32,768 ÷ to 4,096": 8.0},
    "compatible": {"YaRN": 0.3},
    "families": {"GPT-J": 0.1},
    "untrained": {"YaRN": 70.0},
    "free": {"YaRN": 3.0},
}


def faked(row: Row, values: dict[str, float]) -> str:
    """The verdict on a measurement that is made up."""
    return judge(Row(**{**vars(row), "measure": lambda _: values}), Lab(Path("nowhere"), 200)).word


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_a_faked_measurement_changes_the_verdict(row: Row) -> None:
    assert faked(row, GOOD[row.key]) == PASS
    assert faked(row, GOOD[row.key] | WORSE[row.key]) == FAIL
    for name in GOOD[row.key]:
        assert faked(row, GOOD[row.key] | {name: math.nan}) == FAIL, name


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("falls", {"at 1,024": 34.5, "at 4,096": 34.2}),
        ("direct", {"direct": 3072}),
        ("passkey", {"k_max": 2048}),
        ("short", {"PI ÷ base": 1.08, "direct ÷ base": 1.05}),
        ("bound", {"printed": 0.43, "corrected": 0.5}),
        ("compatible", {"PI": 0.6}),
    ],
)
def test_what_differs_in_small_says_why(key: str, values: dict[str, float]) -> None:
    row = next(row for row in ROWS if row.key == key)
    assert faked(row, GOOD[key] | values) == DIFFERS and row.in_small and row.in_small.because


def test_earlier_figures_are_dated_and_what_is_missing_is_said(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", 200)
    found = {row.key: judge(row, lab) for row in ROWS}
    assert found["pose"].earlier == found["untrained"].earlier == "2026-11-20"
    assert found["pose"].word == found["untrained"].word == PASS and not found["figure2"].earlier
    # What the demo's recipe trains, and what has no earlier figures.
    assert {found[key].word for key in ("short", "falls", "passkey", "steps", "flat")} == {MISSING}
    lab.folder.mkdir()
    lab.costs.write_text(json.dumps(COSTS), encoding="utf-8")
    assert judge(next(row for row in ROWS if row.key == "flat"), lab).word == PASS
    assert judge(next(row for row in ROWS if row.key == "pose"), Lab(tmp_path, 100)).word == MISSING


def test_the_page_and_its_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lab = Lab(tmp_path / "lab", 200)
    write(lab, tmp_path / "replicate.md")
    page = (tmp_path / "replicate.md").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads((lab.folder / "results.json").read_text(encoding="utf-8"))
    assert [row["key"] for row in content["rows"]] == [row.key for row in ROWS]
    assert (tmp_path / "images" / "replicate_curves.png").stat().st_size > 10_000
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    table = rows[1 : 1 + len(ROWS)]
    assert len(rows) == 2 * len(ROWS) + 2
    assert all(line.replace("\\|", "").count("|") == 6 for line in table)
    assert "2026-11-20" in page and "not measured" in page


def test_the_quoted_figures_are_those_that_are_shown() -> None:
    shown = (EARLIER.parents[2] / "docs" / "pose.md").read_text(encoding="utf-8")
    figures = json.loads(EARLIER.read_text(encoding="utf-8"))["models"]
    for title in ("PI, full length", "PI, PoSE", "PI, randomised positions"):
        cells = " | ".join(f"{value:.2f}" for value in figures[f"{title}, 200 steps"]["perplexity"].values())
        assert f"| {title} | {cells} |" in shown
