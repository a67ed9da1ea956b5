"""Heat maps as SVG, a panel for each model; panels stand beside each other where there is room."""

from __future__ import annotations

from nemo_pi.evaluation.charts import HeatMap, Panel
from nemo_pi.evaluation.page.markup import Markup, element, join
from nemo_pi.evaluation.page.scale import Scale, kept_apart, text_width

_WIDTH, _ROW, _LEGEND_ROW = 340.0, 26.0, 12.0
_SMALL = 11.0
"""Size of the numbers in cells."""
# Dark blue to yellow: even for colour-blind readers and in grey (the ends and three stops of cividis).
_STOPS = ((0, 34, 78), (53, 69, 108), (125, 124, 120), (188, 175, 111), (254, 232, 56))


def draw_panel(chart: HeatMap, panel: Panel, identity: str) -> Markup:
    """Return one model's drawing.

    Args:
        chart: what the panel belongs to.
        panel: what is drawn.
        identity: unique in the page.
    """
    left = 10 + max(map(text_width, panel.rows))
    size = (_WIDTH - left) / len(panel.columns)
    top, height = 20.0, _ROW * len(panel.rows)
    parts = [
        element("title", f"{panel.name}: {chart.title}", id=f"{identity}-t"),
        element("desc", f"{panel.note}. {chart.summary}", id=f"{identity}-d"),
        element("text", chart.y_label, x=0, y=13, class_="axis"),
    ]
    for r, (row, values) in enumerate(zip(panel.rows, panel.values, strict=True)):
        y = top + r * _ROW
        parts.append(element("text", row, x=round(left - 8, 1), y=round(y + 17.5, 1), text_anchor="end"))
        for c, (column, share) in enumerate(zip(panel.columns, values, strict=True)):
            if share is not None:
                parts += _cell(left + c * size, y, size, share, f"{panel.name}, {row}, {column}: {share:.0%}")
    middles = Scale(0.0, float(len(panel.columns)), left, _WIDTH)
    places = [c + 0.5 for c in range(len(panel.columns))]
    for c, x in kept_apart(middles, places, panel.columns, _WIDTH):
        y = round(top + height + 17, 1)
        parts.append(element("text", panel.columns[c], x=round(x, 1), y=y, text_anchor="middle"))
    if 0 < panel.inside < len(panel.columns):
        x = round(left + panel.inside * size, 1)
        ends = {"x1": x, "x2": x, "y1": top - 4, "y2": top + height + 4}
        parts += [element("line", class_="halo", **ends), element("line", class_="edge", **ends)]
    middle = round((left + _WIDTH) / 2, 1)
    parts.append(
        element(
            "text",
            chart.x_label,
            x=middle,
            y=round(top + height + 37, 1),
            text_anchor="middle",
            class_="axis",
        )
    )
    return element(
        "svg",
        join(parts),
        viewBox=f"0 0 {_WIDTH:.0f} {top + height + 44:.0f}",
        class_="chart panel",
        role="img",
        aria_labelledby=f"{identity}-t {identity}-d",
    )


def draw_key(label: str) -> Markup:
    """Return what the colours mean, from 0 to 100%."""
    cells = [
        element("rect", x=40 + 8 * i, y=3, width=8.4, height=_LEGEND_ROW, fill=shade(i / 19), class_="cell")
        for i in range(20)
    ]
    texts = [
        element("text", "0%", x=34, y=14, text_anchor="end"),
        element("text", "100%", x=206, y=14),
    ]
    return element(
        "span",
        element("svg", *cells, *texts, viewBox="0 0 250 18", class_="key", aria_hidden="true"),
        element("span", label),
        class_="keyline",
    )


def shade(share: float) -> str:
    """Return the colour of a share in [0, 1]."""
    place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    i = min(int(place), len(_STOPS) - 2)
    mixed = (round(a + (place - i) * (b - a)) for a, b in zip(_STOPS[i], _STOPS[i + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _cell(x: float, y: float, size: float, share: float, told: str) -> list[Markup]:
    drawn = element(
        "rect",
        element("title", told),
        x=round(x, 1),
        y=round(y, 1),
        width=round(size - 1 if size > 8 else size + 0.2, 1),
        height=_ROW - 1,
        fill=shade(share),
        class_="cell",
    )
    text = f"{100 * share:.0f}"
    if text_width("100", _SMALL) > size - 4:
        return [drawn]
    number = element(
        "text",
        text,
        x=round(x + size / 2, 1),
        y=round(y + 17, 1),
        text_anchor="middle",
        class_="in-cell dark" if share >= 0.47 else "in-cell light",
    )
    return [drawn, number]
