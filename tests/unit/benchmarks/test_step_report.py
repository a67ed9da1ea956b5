"""The table and the verdict of train_step, on numbers made up for the purpose."""

from __future__ import annotations

from pathlib import Path

from benchmarks.training.race import Outcome
from benchmarks.training.step_report import draw, table, verdict

RESULTS = {
    ("4x256", 1024): {
        "transformers": Outcome(seconds=[1.0, 1.1, 1.2], peak_mib=1000, imports_mib=400),
        "nemo_pi": Outcome(seconds=[0.5, 0.55, 0.6], peak_mib=800, imports_mib=500),
        "trainer": Outcome(failure="out of memory\nmore"),
    }
}


def test_ratios_are_taken_within_rounds() -> None:
    theirs, ours, failed = table(RESULTS)
    assert theirs["nemo_pi is faster by"] == "2.00 (2.00 to 2.00)"
    assert theirs["nemo_pi's ÷ its peak"] == "0.80"
    assert (ours["peak MiB"], ours["beyond imports"]) == ("800", "300")
    assert failed["tokens/s"] == "out of memory"
    assert list(theirs) == list(ours) == list(failed)


def test_verdict_names_the_fastest() -> None:
    assert verdict(RESULTS) == "Ahead in tokens/s: 4x256 at 1,024 tokens: nemo_pi, 2.00x transformers."


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    assert draw(RESULTS, tmp_path / "plot.png").stat().st_size > 10_000
