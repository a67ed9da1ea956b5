"""A line chart as SVG, drawn twice: wide with names beside the ends of lines, narrow with names above.

The page shows one of the two, whichever the screen has room for; text keeps its size in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_pi.evaluation.charts import LineChart, Series
from nemo_pi.evaluation.page.markup import Markup, element, join
from nemo_pi.evaluation.page.scale import (
    Scale,
    kept_apart,
    nice_ticks,
    shortened,
    text_width,
    tick_text,
)
from nemo_pi.evaluation.spread import spread

WIDE, NARROW = 760.0, 340.0
"""Widths in pixels."""
_HEIGHT, _ROW, _GAP = 290.0, 19.0, 17.0
"""Of the lines' area; of a text; between names."""
_MOST_NAME = 190.0
"""Pixels that a name beside a line may take."""
_MOST_MARKED = 16
"""Points; lines with more have no markers."""
_COLOURS = 8
_MARKERS = (
    "M-4,-4h8v8h-8z",
    "M0,-5.2L5,4H-5z",
    "M-4.6,0a4.6,4.6 0 1,0 9.2,0a4.6,4.6 0 1,0 -9.2,0z",
    "M0,-5.6L5.6,0L0,5.6L-5.6,0z",
    "M0,5.2L5,-4H-5z",
    "M-1.7,-5h3.4v3.3H5v3.4H1.7V5h-3.4V1.7H-5v-3.4h3.3z",
    "M-5,-3l2,-2L0,-2L3,-5l2,2L2,0L5,3L3,5L0,2L-3,5L-5,3L-2,0z",
    "M4,-5.2V5.2L-5,0z",
)
"""Outlines around the origin."""


@dataclass(frozen=True)
class _Area:
    """Where the lines stand, in pixels, and what they are drawn by."""

    x: Scale
    y: Scale
    width: float
    top: float
    bottom: float


def draw_lines(chart: LineChart, identity: str) -> list[Markup]:
    """Return the wide and the narrow drawing.

    Args:
        chart: what is drawn.
        identity: unique in the page.
    """
    return [_drawing(chart, f"{identity}-{kind}", kind == "wide") for kind in ("wide", "narrow")]


def colour(place: int) -> str:
    """Return the class of a model's colour."""
    return f"s{place % _COLOURS}"


def marker(place: int, x: float, y: float, *told: str) -> Markup:
    """Return a model's marker at a point; the first of `told` is what a pointer over it reads."""
    return element(
        "path",
        *(element("title", text) for text in told),
        d=_MARKERS[place % len(_MARKERS)],
        transform=f"translate({x:.1f},{y:.1f})",
        class_=f"marker {colour(place)}",
    )


def _drawing(chart: LineChart, identity: str, wide: bool) -> Markup:
    width = WIDE if wide else NARROW
    names = [shortened(line.name, _MOST_NAME) for line in chart.series]
    level = shortened(chart.level[1], _MOST_NAME) if chart.level else ""
    right = width - (28 + max(map(text_width, (*names, level))) if wide else 14)
    ticks = nice_ticks(_y_scale(chart, _HEIGHT, 0), 34)
    left = 16 + max((text_width(tick_text(value)) for value in ticks), default=20)
    x = _x_scale(chart, left, right)
    marks = _placed_marks(chart, x, width)
    top = 32 + _ROW * (1 + max((row for *_, row in marks), default=-1))
    bottom = top + _HEIGHT
    area = _Area(x, _y_scale(chart, bottom, top), width, top, bottom)
    parts = [
        element("title", chart.title, id=f"{identity}-t"),
        element("desc", chart.summary, id=f"{identity}-d"),
        element("clipPath", _rectangle(area), id=f"{identity}-c"),
        *_axes(chart, area),
        *(part for mark in marks for part in _mark(area, *mark)),
        *_level(chart, area),
        *(part for line in chart.series for part in _line(chart, line, area, f"{identity}-c")),
    ]
    if wide:
        parts += _names(chart, area, names, level)
    return element(
        "svg",
        join(parts),
        viewBox=f"0 0 {width:.0f} {bottom + 46:.0f}",
        class_="chart wide" if wide else "chart narrow",
        role="img",
        aria_labelledby=f"{identity}-t {identity}-d",
    )


def _x_scale(chart: LineChart, start: float, end: float) -> Scale:
    values = [x for line in chart.series for x, _ in line.points]
    low, high = min(values), max(values)
    if chart.log_x and low > 0:
        return Scale(low / 1.08, high * 1.04, start, end, log=True)
    margin = 0.02 * (high - low) or 1.0
    return Scale(low - margin, high + margin, start, end)


def _y_scale(chart: LineChart, start: float, end: float) -> Scale:
    values = [y for line in chart.series for _, y in line.points]
    low, high = chart.limits or (min(values), max(values))
    if low > 0 and high >= chart.log_y_from * low:
        margin = 1.0 if chart.limits else (high / low) ** 0.05
        return Scale(low / margin, high * margin, start, end, log=True)
    margin = 0.0 if chart.limits else max(0.08 * (high - low), 0.004 * abs(high), 1e-9)
    return Scale(low - margin, high + margin, start, end)


def _axes(chart: LineChart, area: _Area) -> list[Markup]:
    x, y = area.x, area.y
    parts = [_text(chart.y_label, 0, 13, "start", "axis")]
    for value in nice_ticks(y, 34):
        parts.append(_stroke(x.start, y(value), x.end, y(value), "grid"))
        parts.append(_text(tick_text(value), x.start - 8, y(value) + 4.5, "end"))
    values = (
        sorted({value for line in chart.series for value, _ in line.points})
        if chart.log_x
        else nice_ticks(x, 64)
    )
    texts = [tick_text(value) for value in values]
    parts.append(_stroke(x.start, area.bottom, x.end, area.bottom, "base"))
    for i, middle in kept_apart(x, values, texts, area.width):
        parts.append(_stroke(x(values[i]), area.bottom, x(values[i]), area.bottom + 5, "base"))
        parts.append(_text(texts[i], middle, area.bottom + 20, "middle"))
    return [*parts, _text(chart.x_label, (x.start + x.end) / 2, area.bottom + 40, "middle", "axis")]


def _placed_marks(chart: LineChart, x: Scale, width: float) -> list[tuple[float, str, float, int]]:
    """(place, name, middle of the name, row of the name) of each mark, so that no two names touch."""
    placed: list[tuple[float, str, float, int]] = []
    for value, name in chart.marks:
        if x.holds(value):
            half = text_width(name) / 2
            middle = min(max(x(value), half), width - half)
            row = 0
            while any(
                row == other and abs(middle - there) < half + text_width(text) / 2 + 8
                for _, text, there, other in placed
            ):
                row += 1
            placed.append((x(value), name, middle, row))
    return placed


def _mark(area: _Area, place: float, name: str, middle: float, row: int) -> list[Markup]:
    height = area.top - 14 - _ROW * row
    return [
        _stroke(place, height + 4, place, area.bottom, "mark"),
        _text(name, middle, height, "middle", "quiet"),
    ]


def _level(chart: LineChart, area: _Area) -> list[Markup]:
    if chart.level is None or not area.y.holds(chart.level[0]):
        return []
    height = area.y(chart.level[0])
    return [_stroke(area.x.start, height, area.x.end, height, "mark")]


def _line(chart: LineChart, line: Series, area: _Area, clip: str) -> list[Markup]:
    points = [(area.x(x), area.y(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawn = element(
        "path",
        element("title", line.name),
        d=path,
        class_=f"line {colour(line.place)}",
        clip_path=f"url(#{clip})",
    )
    if len(points) > _MOST_MARKED:
        return [drawn]
    told = (f"{line.name}: {format(y, chart.digits)} at {x:,.6g}" for x, y in line.points)
    return [
        drawn,
        *(
            marker(line.place, *point, text)
            for point, (_, y), text in zip(points, line.points, told, strict=True)
            if area.y.holds(y)
        ),
    ]


def _names(chart: LineChart, area: _Area, names: Sequence[str], level: str) -> list[Markup]:
    """The names right of the lines' ends, moved apart where they would touch."""
    items = [
        (name, area.x(line.points[-1][0]), area.y(line.points[-1][1]), f"name {colour(line.place)}")
        for name, line in zip(names, chart.series, strict=True)
        if area.y.holds(line.points[-1][1])
    ]
    if chart.level and area.y.holds(chart.level[0]):
        items.append((level, area.x.end, area.y(chart.level[0]), "quiet"))
    places = _within(spread([y for *_, y, _ in items], _GAP), area.top + 4, area.bottom - 4)
    parts = []
    for (name, x, y, kind), place in zip(items, places, strict=True):
        if kind != "quiet":
            ends = f"M{x + 7:.1f},{y:.1f}L{area.x.end + 14:.1f},{place:.1f}"
            parts.append(element("path", d=ends, class_=f"lead {kind.split()[-1]}"))
        parts.append(_text(name, area.x.end + 18, place + 4.5, "start", kind))
    return parts


def _within(places: Sequence[float], low: float, high: float) -> list[float]:
    """Places moved into these bounds, still _GAP apart, as far as there is room."""
    moved = list(places)
    order = sorted(range(len(moved)), key=lambda i: moved[i])
    limit = high
    for i in reversed(order):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - _GAP
    limit = low
    for i in order:
        moved[i] = max(moved[i], limit)
        limit = moved[i] + _GAP
    return moved


def _text(text: str, x: float, y: float, anchor: str, kind: str | None = None) -> Markup:
    return element("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=kind)


def _stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    place = {name: round(value, 1) for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    return element("line", class_=kind, **place)


def _rectangle(area: _Area) -> Markup:
    # Lines at the frame keep their width.
    return element(
        "rect",
        x=area.x.start - 2,
        y=area.top - 2,
        width=area.x.end - area.x.start + 4,
        height=area.bottom - area.top + 4,
    )
