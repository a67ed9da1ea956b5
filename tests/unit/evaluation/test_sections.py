from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.evaluation.perplexity_verdicts import COST, FURTHER, format_perplexity
from nemo_pi.evaluation.report import render_html, render_markdown
from nemo_pi.evaluation.results import ModelResults, read_results, write_results
from nemo_pi.evaluation.sections import Section, build_sections, origin_tables
from nemo_pi.evaluation.training_section import training_section
from tests.unit.evaluation.sample_reports import HOSTILE, many_models, tasks, two_models


def test_tasks_with_one_question_share_a_section() -> None:
    sections = {section.heading: section for section in build_sections(two_models())}
    assert list(sections)[:2] == [FURTHER, COST]
    cost = sections[COST]
    # perplexity and short measured the same here, and are told once, with both protocols.
    assert len(cost.verdicts) == 1 and len(cost.protocols) == 1 and cost.tables[0].header[-1] == "ratio"
    assert sections[FURTHER].details[0].lines == (("stride tokens", "256"), ("num scored tokens", "18,428"))


def test_two_answers_to_one_question_are_told_apart() -> None:
    """Perplexity and short measured different tokens of many_models."""
    cost = next(section for section in build_sections(many_models()) if section.heading == COST)
    assert cost.sources == ("Perplexity", "Within the original window")
    charts = [chart.title for chart in cost.all_charts]
    assert len(set(charts)) == len(charts) == 2
    page, text = render_html(many_models(), "T"), render_markdown(many_models(), "T")
    assert page.count("Within the original window: Nearly kept") == 1
    assert text.count("\n\nWithin the original window: Nearly kept") == 1


def test_a_report_of_nothing_says_so() -> None:
    nothing = [ModelResults("bare", 1, 1)]
    assert "Nothing was measured." in render_html(nothing, "T") and "<nav" not in render_html(nothing, "T")
    assert "Nothing was measured." in render_markdown(nothing, "T")


def test_where_numbers_come_from_stands_once_where_models_agree() -> None:
    model, plan, environment = origin_tables(two_models())
    assert model.lines[1] == ("method", "none", "yarn")
    assert environment.lines[0] == ("date", "28 November 2026, 12:00 UTC")
    assert plan.title == "Plan" and origin_tables([ModelResults("bare", 1, 1)]) == []


def test_a_report_is_the_same_from_results_that_were_read_back(tmp_path: Path) -> None:
    models = two_models()
    read = read_results(write_results(models, tmp_path / "results.json"))
    assert read == models and read[0].origin == models[0].origin
    assert render_html(read, "Title") == render_html(models, "Title")
    assert render_markdown(read, "Title") == render_markdown(models, "Title")


def test_results_without_origin_or_beyond_one_model_are_shown() -> None:
    page = render_html([ModelResults("alone", 512, 4096, tasks(1.0, 4096))], "Title")
    assert "Configuration, plan" not in page and ">the baseline<" not in page


def test_names_cannot_become_markup() -> None:
    page = render_html(many_models(), HOSTILE)
    assert "<script" not in page and "<img" not in page and "default-src &#x27;none&#x27;" in page
    assert "http://" not in page.replace("http-equiv", "") and "https://" not in page


def test_sections_of_ones_own_follow(tmp_path: Path) -> None:
    losses = {"PI": [(step, 4.0 - step / 100) for step in range(1, 101)]}
    training = training_section(losses, tmp_path / "loss.png", "Took 9 minutes.")
    page = render_html(two_models(), "Title", more=[training, Section("Notes", "Nothing else.")])
    assert "Took 9 minutes." in page and ">Training loss<" in page and ">Notes</h2>" in page
    assert "![loss: How did training go?](loss.png)" in render_markdown(two_models(), "T", more=[training])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.996, "10.00"),
        (99.5, "99.50"),
        (99.94, "99.94"),
        (99.96, "100.0"),
        (999.94, "999.9"),
        (999.96, "1,000"),
        (99_999.4, "99,999"),
        (99_999.6, "1.0e+05"),
        (float("inf"), "inf"),
        (None, "–"),
    ],
)
def test_perplexities_have_three_figures_or_more(value: float | None, text: str) -> None:
    assert format_perplexity(value) == text
