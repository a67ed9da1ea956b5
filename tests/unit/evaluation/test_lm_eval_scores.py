"""lm-eval's scores as charts: one scale for shares, others by themselves, errors on both sides."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from nemo_pi.evaluation.lm_eval_scores import MOST_SCORES, LmEvalResult, read_results, score_charts, scores_of
from nemo_pi.evaluation.page.bars import draw_bars
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.tasks.lm_eval import LmEval


def result(accuracy: float, perplexity: float) -> LmEvalResult:
    own = {"acc,none": accuracy, "acc_stderr,none": 0.01, "word_perplexity,none": perplexity}
    return LmEvalResult({"tasks": ["b"]}, {"a": {"acc,none": 0.5}, "b": {**own, "word_stderr,none": None}})


def measured(*results: LmEvalResult | None) -> list[Measured[LmEvalResult]]:
    return [Measured(f"model {i}", 512, 1024, own) for i, own in enumerate(results)]


def test_only_scores_are_read() -> None:
    own = {"name": "t", "alias": "t", "sample_len": 7, "acc,none": 0.5, "acc_stderr,none": "N/A"}
    group = {"alias": "g", "acc,none": 0.4, "acc_stderr,none": 0.1, "sample_count": {"acc,none": 7}}
    higher = {"t": {"acc": True, "other": None}, "g": {"acc": False}}
    found = read_results({"results": {"t": own}, "groups": {"g": group}, "higher_is_better": higher}, {})
    assert [(s.name, s.value, s.error, s.lower_is_better) for s in scores_of(found)] == [
        ("t acc", 0.5, None, False),
        ("g acc", 0.4, 0.1, True),
    ]


def test_scores_of_one_scale_share_a_chart() -> None:
    models = measured(result(0.6, 12.0), None, result(0.55, 0.9))
    shares, other = score_charts(models)
    # What was asked for by name comes first; colours are the models'.
    assert [(bar.name, bar.place, bar.error) for bar in shares.bars] == [
        ("b acc, model 0", 0, 0.02),
        ("b acc, model 2", 2, 0.02),
        ("a acc, model 0", 0, None),
        ("a acc, model 2", 2, None),
    ]
    assert shares.bars[0].text == "0.6 ± 0.02" and other.x_label == "word_perplexity"
    (verdict,) = LmEval.verdicts(models)
    assert verdict.charts == (shares, other)
    assert score_charts(measured(result(0.6, 12.0)))[0].bars[0].name == "b acc"


def test_of_many_scores_the_first_are_drawn() -> None:
    many = LmEvalResult({"tasks": ["group"]}, {f"part{i}": {"acc,none": 0.1} for i in range(40)})
    many.metrics["group"] = {"acc,none": 0.2}
    (chart,) = score_charts(measured(many))
    assert len(chart.bars) == MOST_SCORES and chart.bars[0].name == "group acc"
    assert "first 16 of 41 scores" in chart.summary


def test_errors_are_drawn_over_the_ends_of_bars() -> None:
    root = ET.fromstring(draw_bars(score_charts(measured(result(0.6, 12.0)))[0], "c"))
    (line,) = [path for path in root.iter("path") if path.get("class") == "error"]
    bar = next(root.iter("rect"))
    left, right = (
        float(text) for text in line.attrib["d"][1:].split("M")[0].replace("H", ",").split(",")[::2]
    )
    assert left < float(bar.attrib["width"]) < right
    assert left + right == pytest.approx(2 * float(bar.attrib["width"]), abs=0.3)


def test_draws_a_picture(tmp_path: Path) -> None:
    path = LmEval.plot(measured(result(0.6, 12.0), result(-0.2, 3.0)), tmp_path / "lm_eval.png")
    assert path is not None and path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert LmEval.plot(measured(LmEvalResult({}, {})), tmp_path / "none.png") is None
