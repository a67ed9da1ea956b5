"""A chart in the page: caption, drawing, and its numbers as a table."""

from __future__ import annotations

import base64
from pathlib import Path

from nemo_pi.evaluation.charts import BarChart, Chart, HeatMap, LineChart
from nemo_pi.evaluation.page.bars import draw_bars
from nemo_pi.evaluation.page.heat import draw_key, draw_panel
from nemo_pi.evaluation.page.lines import colour, draw_lines, marker
from nemo_pi.evaluation.page.markup import Markup, element
from nemo_pi.evaluation.page.tables import table

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""Pictures that hold no markup; others stay outside."""


def figure(chart: Chart, identity: str) -> Markup:
    """Return a chart with its caption and its numbers.

    Args:
        chart: what is drawn.
        identity: unique in the page.
    """
    if isinstance(chart, LineChart):
        drawn = [_legend(chart), *draw_lines(chart, identity)]
    elif isinstance(chart, BarChart):
        drawn = [draw_bars(chart, identity)]
    else:
        drawn = [_panels(chart, identity)]
    caption = element("figcaption", element("b", chart.title), element("span", chart.summary))
    numbers = element("details", element("summary", "The numbers of this chart"), table(chart.table()))
    return element("figure", caption, *drawn, numbers)


def picture(path: Path, title: str) -> Markup | None:
    """Return a picture as part of the page; None where it is no picture that can be."""
    kind = _TYPES.get(path.suffix.lower())
    if kind is None:
        return None
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return element("figure", element("img", src=f"data:{kind};base64,{data}", alt=f"Chart: {title}"))


def _legend(chart: LineChart) -> Markup:
    """Names above a narrow chart."""
    items = [
        element(
            "li",
            element(
                "svg",
                element("path", d="M0,6H22", class_=f"line {colour(line.place)}"),
                marker(line.place, 11, 6),
                viewBox="0 0 22 12",
                aria_hidden="true",
            ),
            element("span", line.name),
        )
        for line in chart.series
    ]
    if chart.level:
        dashes = element("line", x1=0, x2=22, y1=6, y2=6, class_="mark")
        drawn = element("svg", dashes, viewBox="0 0 22 12", aria_hidden="true")
        items.append(element("li", drawn, element("span", chart.level[1])))
    return element("ul", *items, class_="legend", aria_hidden="true")


def _panels(chart: HeatMap, identity: str) -> Markup:
    panels = [
        element(
            "div",
            element("p", panel.name, class_="name"),
            element("p", panel.note, class_="note"),
            draw_panel(chart, panel, f"{identity}-{i}"),
        )
        for i, panel in enumerate(chart.panels)
    ]
    return element("div", element("div", *panels, class_="panels"), draw_key("share that succeeded"))
