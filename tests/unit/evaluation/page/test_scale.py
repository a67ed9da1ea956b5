from __future__ import annotations

from itertools import pairwise

import pytest

from nemo_pi.evaluation.page.scale import Scale, kept_apart, nice_ticks, shortened, text_width, tick_text


def test_scales_place_values() -> None:
    assert Scale(0, 10, 100, 0)(2.5) == 75
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert Scale(0, 1, 0, 1).holds(1) and not Scale(0, 1, 0, 1).holds(1.01)


@pytest.mark.parametrize(
    "scale",
    [
        Scale(0, 100, 290, 0),
        Scale(29.7, 36.1, 290, 0),
        Scale(3.3912, 3.3938, 290, 0),
        Scale(2.1e5, 8.8e5, 290, 0),
        Scale(28, 73, 290, 0, log=True),
        Scale(3, 9e5, 290, 0, log=True),
        Scale(1e-3, 1e12, 290, 0, log=True),
    ],
)
def test_ticks_are_round_apart_and_enough(scale: Scale) -> None:
    ticks = nice_ticks(scale, 34)
    places = [scale(value) for value in ticks]
    assert 2 <= len(ticks) <= 9
    assert all(scale.holds(value) for value in ticks)
    assert all(a - b >= 34 - 1e-6 for a, b in pairwise(places))
    assert all(len(tick_text(value)) <= 9 for value in ticks)


@pytest.mark.parametrize(
    ("high", "pixels", "ticks"),
    [
        (10, 1000, [1, 1.5, 2, 3, 4, 5, 6, 8, 10]),
        (10, 290, [1, 2, 3, 5, 10]),
        (100, 290, [1, 2, 5, 10, 20, 50, 100]),
        (1000, 200, [1, 3, 10, 30, 100, 300, 1000]),
        (10_000, 150, [1, 10, 100, 1000, 10_000]),
    ],
)
def test_ticks_of_ratios(high: float, pixels: float, ticks: list[float]) -> None:
    assert nice_ticks(Scale(1, high, pixels, 0, log=True), 26) == ticks


def test_texts_are_kept_apart_and_the_last_stays() -> None:
    values = [512.0 * i for i in range(1, 65)]
    texts = [f"{value:,.0f}" for value in values]
    scale = Scale(512, 512 * 64, 0, 300)
    kept = kept_apart(scale, values, texts, width=310)
    assert kept[-1][0] == 63 and 3 <= len(kept) <= 7
    for (a, x), (b, y) in pairwise(kept):
        assert y - x >= (text_width(texts[a]) + text_width(texts[b])) / 2
    last, middle = kept[-1]
    assert middle + text_width(texts[last]) / 2 == pytest.approx(310)


def test_long_names_lose_their_middle() -> None:
    assert shortened("short", 100) == "short"
    name = shortened("results/run/checkpoints/step_00001000", 100)
    assert text_width(name) <= 100 and name.startswith("res") and name.endswith("1000") and "…" in name
    assert text_width("数字") > 2 * text_width("n")
    assert shortened("a long name", 1) == "…"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (85.6, "85.6"), (32768, "32,768"), (1e6, "1e6"), (2e-7, "2e-7"), (0.05, "0.05")],
)
def test_ticks_in_words(value: float, text: str) -> None:
    assert tick_text(value) == text
