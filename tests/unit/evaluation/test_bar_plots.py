"""Bars of tasks that measure one value a model: what they hold, and that no label lies on another."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex

from nemo_pi.evaluation import style
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.tasks.longppl import LongPpl, LongPplResult
from nemo_pi.evaluation.tasks.short import Short
from tests.unit.evaluation.sample_reports import HOSTILE, LONG
from tests.unit.evaluation.test_plots import assert_texts_lie_within

NAMES = ("base model", "Position Interpolation, 200 steps", "YaRN", LONG, HOSTILE, "tuned")
PERPLEXITIES = (31.17, 43.9, 31.4, 900.5, 30.2, 33.0)
KEYS = (120, 260, 0, 90, 310, 121)


def read(name: str, perplexity: float, window: int = 512) -> Measured[PerplexityResult]:
    return Measured(name, window, 4096, PerplexityResult({"stride": 256}, {window: perplexity}))


def compared(name: str, keys: int) -> Measured[LongPplResult]:
    return Measured(name, 512, 4096, LongPplResult({}, 2.51 if keys else None, 9.3, keys, 20_000))


def shown(figure: Any) -> tuple[list[float], list[str], list[str]]:
    """Lengths of bars, names and values, from the top."""
    (axes,) = figure.axes
    names = [label.get_text().replace("\n", "") for label in axes.get_yticklabels()]
    values = [text.get_text() for text in axes.texts]
    return [bar.get_width() for bar in axes.patches], names, values


def assert_labels_are_apart(figure: Any) -> None:
    (axes,) = figure.axes
    texts = [*figure.texts, *axes.texts, *axes.get_yticklabels(), axes.xaxis.label]
    for one, other in itertools.combinations(texts, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent()), (one, other)
    for text in [*axes.texts[: len(axes.patches)], *axes.get_yticklabels()]:
        assert not text.get_window_extent().overlaps(axes.get_window_extent()), text
    assert_texts_lie_within(figure)
    assert all(label.get_window_extent().x0 >= 0 for label in axes.get_yticklabels())


@pytest.mark.parametrize("count", [1, 2, 6])
def test_short_draws_perplexities_and_what_counts_as_kept(
    figures: list[Any], tmp_path: Path, count: int
) -> None:
    models = [read(*pair) for pair in zip(NAMES[:count], PERPLEXITIES[:count], strict=True)]
    path = Short.plot(models, tmp_path / "short.png")
    assert path is not None and path.read_bytes()[:4] == b"\x89PNG"
    widths, names, values = shown(figures[0])
    assert widths == pytest.approx(PERPLEXITIES[:count])
    assert names[:3] == list(NAMES[: min(3, count)]) and values[0] == "31.17"
    kept = [line.get_xdata()[0] for line in figures[0].axes[0].get_lines()]
    if count == 1:
        assert kept == [] and len(values) == 1
    else:
        assert kept == pytest.approx([1.02 * 31.17])
        assert values[1] == "43.90 (1.408 ×)" and values[-1] == "kept: 1.02 times the first"
    assert_labels_are_apart(figures[0])


def test_short_leaves_out_what_is_no_number_and_keeps_colours(figures: list[Any], tmp_path: Path) -> None:
    models = [read("base", math.inf), read("after", 20.0), Measured("none", 512, 4096, None), read("b", 30.0)]
    Short.plot(models, tmp_path / "short.png")
    widths, names, _ = shown(figures[0])
    assert widths == [20, 30] and names == ["after", "b"]
    assert not figures[0].axes[0].get_lines(), "nothing is kept of a model that reads nothing"
    colours = [to_hex(bar.get_facecolor()) for bar in figures[0].axes[0].patches]
    assert colours == [style.COLOURS[1], style.COLOURS[3]]
    assert Short.plot([read("base", math.nan)], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("count", [1, 6])
def test_longppl_draws_shares_of_key_tokens(figures: list[Any], tmp_path: Path, count: int) -> None:
    models = [compared(*pair) for pair in zip(NAMES[:count], KEYS[:count], strict=True)]
    assert LongPpl.plot(models, tmp_path / "longppl.png") == tmp_path / "longppl.png"
    widths, names, values = shown(figures[0])
    assert widths == pytest.approx([keys / 200 for keys in KEYS[:count]]) and names[0] == "base model"
    assert values[0] == "0.60%, LongPPL 2.51"
    assert count == 1 or values[2] == "0.00%, LongPPL –"
    assert_labels_are_apart(figures[0])


def test_longppl_without_key_tokens_or_results(figures: list[Any], tmp_path: Path) -> None:
    LongPpl.plot([compared("base", 0)], tmp_path / "longppl.png")
    assert shown(figures[0])[0] == [0] and figures[0].axes[0].get_xlim()[1] > 0
    assert LongPpl.plot([Measured("none", 512, 4096, None)], tmp_path / "none.png") is None
