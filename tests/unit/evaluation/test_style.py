from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import matplotlib
import pytest

from nemo_pi.errors import BackendUnavailableError
from nemo_pi.evaluation.style import COLOURS, MARKERS, as_line, new_figure, save, tick_text


def linear_rgb(colour: str) -> list[float]:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def test_labels_stand_out_from_the_paper() -> None:
    # WCAG 2: bold text needs a contrast of 3 to 1.
    for colour in COLOURS:
        luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear_rgb(colour), strict=True))
        assert 1.05 / (luminance + 0.05) >= 3, colour


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISIONS = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
}
RGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))


def times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(m * v for m, v in zip(line, vector, strict=True)) for line in matrix]


def cielab(colour: str, vision: str) -> tuple[float, float, float]:
    seen = [min(1.0, max(0.0, c)) for c in times(VISIONS[vision], linear_rgb(colour))]
    white = (0.9505, 1.0, 1.089)
    ratios = (c / w for c, w in zip(times(RGB_TO_XYZ, seen), white, strict=True))
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in ratios)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_stay_apart(vision: str) -> None:
    # A CIE 1976 difference of 2.3 is just noticeable; 10 is plain.
    for a, b in combinations(COLOURS, 2):
        assert math.dist(cielab(a, vision), cielab(b, vision)) > 10, (a, b)


def test_every_colour_has_a_marker_of_its_own() -> None:
    assert len(set(MARKERS)) == len(MARKERS) == len(COLOURS)


def test_running_mean_keeps_the_ends_and_the_length() -> None:
    line = as_line(0, "loss", [(1, 4.0), (2, 2.0), (3, 6.0), (4, 0.0)]).running_mean(1)
    assert line.points == ((1, 3.0), (2, 4.0), (3, pytest.approx(8 / 3)), (4, 3.0))
    assert as_line(0, "loss", [(1, 4.0), (2, 2.0)]).running_mean(0).points == ((1, 4.0), (2, 2.0))


def test_ticks_are_written_in_full() -> None:
    assert [tick_text(value) for value in (0.5, 20, 5000, 1e5)] == ["0.5", "20", "5,000", "$10^{5}$"]


def test_drawing_leaves_no_settings_behind_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    before, pictures = dict(matplotlib.rcParams), []
    for name in ("a.png", "b.png"):
        with new_figure(1, 1) as figure:
            figure.text(0.1, 0.5, "x")
            pictures.append(save(figure, tmp_path / "new" / name).read_bytes())
    assert dict(matplotlib.rcParams) == before
    assert pictures[0] == pictures[1]


def test_matplotlib_is_imported_only_to_draw() -> None:
    program = "import sys, nemo_pi.evaluation.report; print('matplotlib' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"


def test_without_matplotlib_a_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailableError, match="pip install"), new_figure(1, 1):
        pass
