"""The pictures are looked at by people; here only what must not go wrong in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.errors import DataError
from nemo_pi.evaluation.heat_maps import plot_passkey
from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.plots import plot_losses, plot_perplexity
from nemo_pi.evaluation.tasks.base import Measured


def line(
    name: str, by_length: dict[int, float], original: int = 512, target: int = 4096
) -> Measured[PerplexityResult]:
    return Measured(name, original, target, PerplexityResult({}, by_length))


def panel(name: str, grid: PasskeyGrid) -> Measured[PasskeyResult]:
    return Measured(name, 512, 4096, PasskeyResult({}, grid))


BASE = line("base", {512: 20.1, 1024: 85.2, 2048: 410.3, 4096: 1530.0})
BEFORE = line("before", {512: 76.8, 1024: 78.1, 2048: math.inf, 4096: 81.7})
AFTER = line("after", {512: 20.5, 1024: 18.9, 2048: 17.2, 4096: 16.6})
TUNED = line("tuned", {512: 20.2, 1024: 18.7, 2048: 18.0, 4096: 19.9})


def lines_of(axes: Any) -> Iterator[tuple[list[float], list[float]]]:
    for line in axes.get_lines():
        if line.get_linestyle() == "-":
            yield list(line.get_xdata()), list(line.get_ydata())


def texts_of(figure: Any) -> list[Any]:
    return [text for axes in figure.axes for text in axes.texts] + list(figure.texts)


def assert_texts_lie_within(figure: Any) -> None:
    for text in texts_of(figure):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height, text.get_text()


WINDOW = "original window\n512 tokens"


def labels_of(axes: Any) -> set[str]:
    return {text.get_text() for text in axes.texts}


def test_perplexity_lines_hold_the_numbers(figures: list[Any], tmp_path: Path) -> None:
    plot_perplexity([BASE, BEFORE], tmp_path / "p.png")
    (axes,) = figures[0].axes
    base, before = lines_of(axes)
    assert base == ([512, 1024, 2048, 4096], [20.1, 85.2, 410.3, 1530.0])
    assert before == ([512, 1024, 4096], [76.8, 78.1, 81.7])  # without the infinite one
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["512", "1,024", "2,048", "4,096"]
    assert labels_of(axes) == {"base", "before", WINDOW}
    assert_texts_lie_within(figures[0])


@pytest.mark.parametrize("near", [[AFTER], [AFTER, TUNED]])
def test_lines_near_the_best_are_enlarged(
    figures: list[Any], tmp_path: Path, near: list[Measured[PerplexityResult]]
) -> None:
    plot_perplexity([BASE, BEFORE, *near], tmp_path / "p.png")
    overview, enlarged = figures[0].axes
    assert list(lines_of(overview)) == list(lines_of(enlarged))
    assert labels_of(overview) == {"base", "before", WINDOW}
    assert labels_of(enlarged) == {*(model.model for model in near), WINDOW}
    low, high = enlarged.get_ylim()
    assert low < 16.6 and 20.5 < high < 30 and enlarged.get_yscale() == "linear"
    assert overview.get_ylim()[1] > 1530
    assert_texts_lie_within(figures[0])


def test_names_within_the_axes_touch_neither_each_other_nor_the_border(
    figures: list[Any], tmp_path: Path
) -> None:
    far = [
        line("Position Interpolation, untrained", {512: 164.0, 1024: 176.0}),
        line("direct fine-tuning, 200 steps", {512: 22.0, 1024: 100.0, 2048: 191.0}),
        line("another line of about that height", {512: 160.0, 1024: 180.0, 2048: 190.0}),
    ]
    plot_perplexity([line("base", {512: 20.1, 1024: 479.0, 2048: 4581.0}), *far, AFTER], tmp_path / "p.png")
    overview = figures[0].axes[0]
    boxes = [text.get_window_extent() for text in overview.texts if text.get_text() != WINDOW]
    assert len(boxes) == 4
    for number, box in enumerate(boxes):
        assert overview.bbox.x0 <= box.x0 and box.x1 <= overview.bbox.x1 and box.y1 <= overview.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_a_narrow_range_stays_linear(figures: list[Any], tmp_path: Path) -> None:
    plot_perplexity([AFTER, TUNED], tmp_path / "p.png")
    assert figures[0].axes[0].get_yscale() == "linear"


def test_one_length_and_long_names_can_be_drawn(figures: list[Any], tmp_path: Path) -> None:
    name = "a name of some forty characters, no less"
    plot_perplexity([line(name, {64: 3.0}, 64, 64)], tmp_path / "p.png")
    assert_texts_lie_within(figures[0])


def test_heat_maps_hold_the_rates_and_mark_the_window(figures: list[Any], tmp_path: Path) -> None:
    grid = PasskeyGrid((256, 512, 1024), (0.0, 1.0), 10, ((10, 9), (5, 0), (1, 2)))
    row = panel("base", grid)
    plot_passkey([row, Measured("after", 512, 4096, None), row], tmp_path / "k.png")
    *panels, bar = figures[0].axes
    assert len(panels) == 2
    assert panels[0].images[0].get_array().tolist() == [[100, 50, 10], [90, 0, 20]]
    assert panels[0].images[0].get_clim() == (0, 100)
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["0%", "100%"]
    thick = {tuple(line.get_xdata()) for line in panels[0].get_lines() if line.get_linewidth() > 1}
    assert thick == {(1.5, 1.5)}
    assert panels[0].get_title("left") == "base" and panels[0].texts[0].get_text() == "k_max 512 tokens"
    assert bar.get_ylabel() == "trials retrieved (%)"
    assert_texts_lie_within(figures[0])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_any_number_of_panels_has_room(figures: list[Any], tmp_path: Path, count: int) -> None:
    grid = PasskeyGrid(tuple(range(128, 4097, 128)), (0.0, 0.5, 1.0), 4, ((4, 2, 0),) * 32)
    rows = [panel(f"row {i}", grid) for i in range(count)]
    plot_passkey(rows, tmp_path / "k.png")
    boxes = [axes.get_position() for axes in figures[0].axes]
    assert len(boxes) == count + 1
    assert all(0 < box.x0 < box.x1 < 1 and 0 < box.y0 < box.y1 < 1 for box in boxes)
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
    assert_texts_lie_within(figures[0])


def test_losses_are_drawn_with_their_running_mean(figures: list[Any], tmp_path: Path) -> None:
    points = [(step, 3 + 1 / step) for step in range(1, 101)] + [(101, math.nan)]
    plot_losses({"PI": points, "never started": []}, tmp_path / "l.png")
    raw, mean = lines_of(figures[0].axes[0])
    assert raw == ([x for x, _ in points[:-1]], [y for _, y in points[:-1]])
    assert mean[1][50] == pytest.approx(sum(raw[1][47:54]) / 7)
    assert labels_of(figures[0].axes[0]) == {"PI"}
    assert_texts_lie_within(figures[0])


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    empty = line("diverged", {64: math.nan}, 64, 64)
    with pytest.raises(DataError, match="plot"):
        plot_perplexity([empty], tmp_path / "x.png")
    with pytest.raises(DataError, match="plot"):
        plot_passkey([Measured("none", 64, 64, None)], tmp_path / "x.png")
    with pytest.raises(DataError, match="plot"):
        plot_losses({"a": [(1, math.nan)]}, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
