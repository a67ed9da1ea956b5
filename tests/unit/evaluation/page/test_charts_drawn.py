"""Charts as SVG, whatever their numbers and names: texts never touch, and nothing leaves the drawing.

The boxes are those that `text_width` allows for; tests/integration/test_report_page.py measures them.
"""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET

import pytest

from nemo_pi.evaluation.charts import Bar, BarChart, HeatMap, LineChart, Panel, Series
from nemo_pi.evaluation.page.bars import draw_bars
from nemo_pi.evaluation.page.heat import draw_key, draw_panel, shade
from nemo_pi.evaluation.page.lines import draw_lines
from nemo_pi.evaluation.page.scale import TEXT, text_width

NAMES = (
    "base",
    "Position Interpolation, 200 steps of two stages",
    "<b>&</b>",
    "数字を探す長い名前",
    "x" * 90,
)
Box = tuple[str, float, float, float, float]


def boxes(drawing: str) -> tuple[list[Box], float, float]:
    """(text, left, top, right, bottom) of each text but those in cells; width and height of the drawing."""
    root = ET.fromstring(drawing)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    found = []
    for text in root.iter("text"):
        if "in-cell" in text.get("class", ""):
            continue
        size = text_width(text.text or "")
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        left = x - {"start": 0, "middle": size / 2, "end": size}[text.get("text-anchor", "start")]
        found.append((text.text or "", left, y - 0.8 * TEXT, left + size, y + 0.2 * TEXT))
    return found, width, height


def assert_legible(drawing: str) -> None:
    texts, width, height = boxes(drawing)
    assert texts
    for i, (text, left, top, right, bottom) in enumerate(texts):
        assert left >= -0.1 and right <= width + 0.1 and top >= -0.1 and bottom <= height + 0.1, text
        for other, left_2, top_2, right_2, bottom_2 in texts[i + 1 :]:
            apart = right <= left_2 or right_2 <= left or bottom <= top_2 or bottom_2 <= top
            assert apart, (text, other)


def line_chart(seed: int) -> LineChart:
    rng = random.Random(seed)
    lengths = sorted({rng.choice((512, 1000, 8192)) * 2**i for i in range(rng.randint(1, 9))})
    scale = 10.0 ** rng.randint(-3, 6)
    series = tuple(
        Series(
            rng.choice(NAMES) + str(i),
            tuple((n, scale * rng.uniform(1, rng.choice((1.1, 9)))) for n in lengths),
            i,
        )
        for i in range(rng.randint(1, 8))
    )
    return LineChart(
        "Title",
        "How to read it",
        "length (tokens)",
        "value",
        series,
        log_x=rng.random() < 0.7,
        level=(scale * 2, "a level to reach") if rng.random() < 0.5 else None,
        marks=tuple((lengths[0] * f, f"original window: {lengths[0] * f:,.0f}") for f in (1.0, 1.1, 2.0)),
    )


@pytest.mark.parametrize("seed", range(60))
def test_texts_of_line_charts_never_touch(seed: int) -> None:
    for drawing in draw_lines(line_chart(seed), "c"):
        assert_legible(drawing)


def test_lines_that_all_end_at_one_place_are_told_apart() -> None:
    for low in (True, False):
        series = tuple(Series(f"model {i}", ((1, 5.0), (2, 1.0 if low else 9.0)), i) for i in range(8))
        chart = LineChart("t", "s", "x", "y", (*series, Series("other", ((1, 1.0), (2, 9.0)), 8)))
        for drawing in draw_lines(chart, "c"):
            assert_legible(drawing)


@pytest.mark.parametrize("rows", [("0%", "25%"), ("niah_single_1", "vt", "cwe")])
@pytest.mark.parametrize("count", [1, 4, 8, 32])
def test_texts_of_heat_maps_never_touch(rows: tuple[str, ...], count: int) -> None:
    columns = tuple(f"{1024 * (i + 1):,}" for i in range(count))
    values = tuple(tuple((i + j) / 40 if i % 3 else None for i in range(count)) for j in range(len(rows)))
    panel = Panel("model", "k_max 1,024", rows, columns, values, inside=1)
    chart = HeatMap("t", "s", "length (tokens)", "depth", (panel,))
    assert_legible(draw_panel(chart, panel, "p"))
    assert len(chart.table().lines) == len(rows)


def test_texts_of_bars_never_touch() -> None:
    bars = tuple(Bar(name, i * 0.3, f"{i * 0.3:.3f}", i) for i, name in enumerate(NAMES))
    for level in (None, (0.01, "kept: 0.01"), (1.2, "kept: 1.2")):
        assert_legible(draw_bars(BarChart("t", "s", "times the first", bars, level), "b"))
    assert "width" in draw_bars(BarChart("t", "s", "x", (Bar("none", 0.0, "0", 0),)), "b")


@pytest.mark.parametrize(("count", "marked"), [(2, 2), (16, 16), (17, 0)])
def test_few_points_are_marked_and_many_are_not(count: int, marked: int) -> None:
    line = Series("one", tuple((2.0**i, 3.0 + i) for i in range(count)), 0)
    drawing = "".join(draw_lines(LineChart("t", "s", "x", "y", (line,), log_x=True), "c"))
    assert len(re.findall(r"one: [^<]* at ", drawing)) == marked * drawing.count("<svg")


def test_bars_begin_at_the_top_or_below_what_is_asked_of_them() -> None:
    bars = (Bar("first", 1.0, "1", 0), Bar("second", 2.0, "2", 1))
    for level, top, height in ((None, 20, 118), ((1.5, "kept"), 40, 138)):
        root = ET.fromstring(draw_bars(BarChart("t", "s", "x", bars, level), "b"))
        names = {text.text: float(text.attrib["y"]) for text in root.iter("text")}
        assert (names["first"], names["second"]) == (top, top + 44)
        assert float(root.attrib["viewBox"].split()[3]) == height


def test_numbers_in_cells_can_be_read() -> None:
    """WCAG 2.2's contrast, 4.5, of black and white on every colour as they are chosen."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(c * w for c, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    panel = Panel("m", "", ("0%",), tuple(map(str, range(8))), ((0.0, 0.2, 0.4, 0.46, 0.47, 0.5, 0.8, 1.0),))
    drawing = draw_panel(HeatMap("t", "s", "x", "y", (panel,)), panel, "p")
    found = re.findall(r'fill="(#\w+)".*?class="in-cell (dark|light)"', drawing)
    assert len(found) == 8
    for colour, kind in found:
        a, b = sorted((light(colour), light("#000000" if kind == "dark" else "#ffffff")))
        assert (b + 0.05) / (a + 0.05) >= 4.5, colour
    assert shade(-1) == shade(0) and shade(2) == shade(1)


def test_colours_are_explained_in_the_middle_of_their_line() -> None:
    key = ET.fromstring(f"<div>{draw_key('found')}</div>")
    (drawing,) = key.iter("svg")
    cells = list(drawing.iter("rect"))
    height = float(drawing.attrib["viewBox"].split()[3])
    assert {2 * float(cell.attrib["y"]) + float(cell.attrib["height"]) for cell in cells} == {height}
    assert [cell.attrib["fill"] for cell in cells][:: len(cells) - 1] == [shade(0.0), shade(1.0)]


def test_charts_say_what_they_show() -> None:
    for drawing in draw_lines(line_chart(3), "c"):
        root = ET.fromstring(drawing)
        assert root.get("role") == "img"
        texts = [root.find(f".//*[@id='{name}']") for name in root.attrib["aria-labelledby"].split()]
        assert [text is not None and text.text for text in texts] == ["Title", "How to read it"]
    rows = line_chart(3).table().lines
    assert len(rows) == len(line_chart(3).series[0].points)
