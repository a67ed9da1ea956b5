"""Bars from zero as SVG: the name above each, its value behind it. One drawing fits every screen."""

from __future__ import annotations

from nemo_pi.evaluation.charts import BarChart
from nemo_pi.evaluation.page.lines import colour
from nemo_pi.evaluation.page.markup import Markup, element, join
from nemo_pi.evaluation.page.scale import Scale, shortened, text_width

_WIDTH, _STEP, _BAR = 340.0, 44.0, 14.0
"""Pixels: of the drawing, from bar to bar, of a bar."""


def draw_bars(chart: BarChart, identity: str) -> Markup:
    """Return the drawing.

    Args:
        chart: what is drawn.
        identity: unique in the page.
    """
    values = [bar.value + (bar.error or 0.0) for bar in chart.bars]
    most = max((*values, chart.level[0] if chart.level else 0.0)) or 1.0
    room = 10 + max(text_width(bar.text) for bar in chart.bars)
    scale = Scale(0.0, most, 0.0, _WIDTH - room)
    top = 24.0 if chart.level else 4.0
    bottom = top + _STEP * len(chart.bars)
    parts = [
        element("title", chart.title, id=f"{identity}-t"),
        element("desc", chart.summary, id=f"{identity}-d"),
    ]
    for i, bar in enumerate(chart.bars):
        y = top + i * _STEP
        name = shortened(bar.name, _WIDTH)
        parts += [
            element("text", name, x=0, y=round(y + 16, 1)),
            element(
                "rect",
                element("title", f"{bar.name}: {bar.text}"),
                x=0,
                y=round(y + 22, 1),
                width=round(max(scale(bar.value), 1.0), 1),
                height=_BAR,
                class_=f"bar {colour(bar.place)}",
            ),
            element("text", bar.text, x=_WIDTH, y=round(y + 34, 1), text_anchor="end"),
        ]
        if bar.error is not None:
            x1, x2 = (round(scale(max(bar.value + sign * bar.error, 0.0)), 1) for sign in (-1, 1))
            middle = round(y + 22 + _BAR / 2, 1)
            parts.append(element("path", d=f"M{x1},{middle}H{x2}M{x2},{middle - 4}v8", class_="error"))
    if chart.level:
        x, half = scale(chart.level[0]), text_width(chart.level[1]) / 2
        middle = min(max(x, half), _WIDTH - half)
        # In pieces between the texts, which it must not cross.
        stretches = (
            (round(top + i * _STEP + 20, 1), round(top + i * _STEP + 38, 1)) for i in range(len(chart.bars))
        )
        parts += [
            element("text", chart.level[1], x=round(middle, 1), y=14, text_anchor="middle", class_="quiet"),
            *(
                element("line", x1=round(x, 1), x2=round(x, 1), y1=y1, y2=y2, class_="mark")
                for y1, y2 in stretches
            ),
        ]
    parts.append(element("text", chart.x_label, x=0, y=round(bottom + 18, 1), class_="axis"))
    return element(
        "svg",
        join(parts),
        viewBox=f"0 0 {_WIDTH:.0f} {bottom + 26:.0f}",
        class_="chart panel",
        role="img",
        aria_labelledby=f"{identity}-t {identity}-d",
    )
