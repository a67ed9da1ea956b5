"""What training cost and how its loss fell, as a section of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_pi.evaluation.charts import LineChart, Series
from nemo_pi.evaluation.sections import Section
from nemo_pi.evaluation.style import as_line

HEADING = "How did training go?"


def training_section(
    curves: Mapping[str, Sequence[tuple[int, float]]], picture: Path | None = None, text: str = ""
) -> Section:
    """Return a section with the running means of training losses.

    Args:
        curves: by a run's name, its (step, nats per token) pairs.
        picture: the same, drawn (`plots.plot_losses`), for Markdown.
        text: what stands above, such as how long it took.
    """
    series = []
    for place, (name, points) in enumerate(curves.items(), start=1):
        finite = [(step, loss) for step, loss in points if math.isfinite(loss)]
        if finite:
            mean = as_line(place, name, finite).running_mean(max(1, len(finite) // 30))
            series.append(Series(name, mean.points, place))
    chart = LineChart(
        "Training loss",
        "Running mean of the cross-entropy of each step's global batch. Runs of several stages change what "
        "they read, and so jump, where a stage begins.",
        "step",
        "nats per token",
        tuple(series),
        log_x=False,
        digits=".3f",
    )
    pictures = () if picture is None else (picture,)
    return Section(HEADING, text, charts=(chart,) if series else (), pictures=pictures)
