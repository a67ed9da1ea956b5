"""The report in a headless Chromium: at phone and desk size, light and dark, printed, and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.evaluation.report import write_report
from tests.browser import Page, browser, find_chromium, why_not
from tests.unit.evaluation.sample_reports import HOSTILE, many_models, two_models

pytestmark = pytest.mark.slow

SIZES = [(375, "light"), (375, "dark"), (768, "light"), (1440, "light"), (1440, "dark")]

# Boxes of the texts of every chart that is shown, those of its names and numbers alike.
TEXTS = """
[...document.querySelectorAll("svg.chart")].filter(svg => svg.getBoundingClientRect().width).map(svg => ({
  chart: svg.querySelector("title").textContent,
  texts: [...svg.querySelectorAll("text")].map(text => {
    const box = text.getBoundingClientRect();
    const drawn = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const size = parseFloat(getComputedStyle(text).fontSize) * drawn;
    return [text.textContent, box.left, box.top, box.right, box.bottom, size];
  }),
}))
"""
# Text whose colour and background are too much alike (WCAG 2.2, 1.4.3): its words, and the contrast.
FAINT = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour[3]) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.getClientRects().length || node.classList.contains("in-cell")) continue;
    if (["title", "desc", "STYLE"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const paint = node.tagName === "text" ? style.fill : style.color;
    const [a, b] = [light(rgb(paint)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([node.textContent.slice(0, 40), ratio]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip(why_not())
    with browser(program) as tab:
        yield tab


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return {
        "two": write_report(two_models(), folder / "two", title="Before and after", plots=False).page,
        "many": write_report(many_models(), folder / "many", title=f"Many {HOSTILE}", plots=False).page,
    }


def overlaps(texts: list[list[Any]]) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a pixel in both directions."""
    return [
        (one[0], other[0])
        for i, one in enumerate(texts)
        for other in texts[i + 1 :]
        if min(one[3], other[3]) - max(one[1], other[1]) > 1
        and min(one[4], other[4]) - max(one[2], other[2]) > 1
    ]


@pytest.mark.parametrize("report", ["two", "many"])
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_it_fits_and_can_be_read(
    page: Page, reports: dict[str, Path], report: str, width: int, scheme: str
) -> None:
    page.open(reports[report], width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    charts = page.evaluate(TEXTS)
    assert len(charts) >= 8
    for chart in charts:
        assert overlaps(chart["texts"]) == [], chart["chart"]
        for text, left, _, right, _, size in chart["texts"]:
            assert left >= 0 and right <= width, (chart["chart"], text)
            assert size >= 9.5, (chart["chart"], text)
    assert page.evaluate(FAINT) == []
    assert page.complaints() == []
    assert page.requests() == [reports[report].as_uri()]


def test_the_check_sees_texts_that_overlap() -> None:
    assert overlaps([["a", 0, 0, 10, 10, 13], ["b", 8, 8, 20, 20, 13], ["c", 10, 0, 20, 8, 13]]) == [
        ("a", "b")
    ]


def test_a_name_stays_a_name(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["many"], width=1440)
    assert page.evaluate("document.title") == f"Many {HOSTILE}"
    assert page.evaluate("document.scripts.length + document.querySelectorAll('[onerror], img').length") == 0
    assert HOSTILE in page.evaluate(
        "[...document.querySelectorAll('.glance thead th')].map(th => th.textContent)"
    )


def test_screen_readers_are_told_what_charts_show(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["many"], width=1440)
    named = """[...document.querySelectorAll("svg[role=img]")].map(svg =>
        svg.getAttribute("aria-labelledby").split(" ").map(id => document.getElementById(id).textContent))"""
    assert all(len(texts) == 2 and all(texts) for texts in page.evaluate(named))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    # A table for every figure, and a heading for every cell.
    assert page.evaluate("[...document.querySelectorAll('figure')].every(f => f.querySelector('table'))")
    assert page.evaluate("[...document.querySelectorAll('th')].every(th => th.scope)")
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1


def test_everything_is_reached_by_keyboard(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["two"], width=1440)
    active = "document.activeElement"
    told = f"{active}.matches(':focus-visible') && getComputedStyle({active}).outlineStyle"
    wanted = page.evaluate("document.querySelectorAll('a, summary, [tabindex=\"0\"]').length")
    closed = "document.querySelectorAll('details:not([open])').length"
    hidden = page.evaluate("document.querySelectorAll('details [tabindex=\"0\"]').length")
    before, focused = page.evaluate(closed), []
    for _ in range(wanted - hidden):
        page.press("Tab")
        assert page.evaluate(told) == "solid"
        focused.append(page.evaluate("document.activeElement.tagName + document.activeElement.className"))
        if len(focused) == 1:
            assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        if "SUMMARY" in focused[-1] and focused.count("SUMMARY") == 1:
            page.press("Enter")
            assert page.evaluate(closed) == before - 1
            page.press("Enter")
    assert focused[0] == "Askip" and {"A", "SUMMARY", "DIVscroll"} <= set(focused)


def test_printed_it_is_whole(page: Page, reports: dict[str, Path]) -> None:
    page.open(reports["two"], width=700, media="print", scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    tables = "[...document.querySelectorAll('details table')]"
    shown = f"{tables}.every(table => table.checkVisibility({{contentVisibilityAuto: true}}))"
    assert page.evaluate(shown)
    assert json.dumps(page.evaluate(FAINT)) == "[]"
