"""What the rows measure from: results of the demo's runs, and a few short runs of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evidence.replicate.figures import Figures, figures_of, read_figures
from nemo_pi.evaluation.results import read_results

EARLIER, EARLIER_STEPS = Path(__file__).with_name("figures-2026-11-20.json"), 200
"""What docs/pose.md shows, at the steps that it was measured at; and models that no recipe has trained."""
BASE = "base model"
PI, DIRECT, NTK, YARN = "PI", "direct fine-tuning", "NTK-aware", "YaRN"
FULL, POSE, RANDOM = "PI, full length", "PI, PoSE", "PI, randomised positions"


@dataclass(frozen=True)
class Lab:
    """One run of `make replicate`."""

    folder: Path
    """Where its stages write."""
    steps: int
    """Optimizer steps of each method."""
    dates: set[str] = field(default_factory=set)
    """Of the earlier runs that figures were taken from since it was last emptied."""

    @property
    def compared(self) -> Path:
        """Results of `examples/demo.py --compare`."""
        return self.folder / "compare" / "results.json"

    @property
    def sampled(self) -> Path:
        """Results of `examples/demo.py --pose`."""
        return self.folder / "pose" / "results.json"

    def swept(self, steps: int) -> Path:
        """Results of PI with another number of steps."""
        return self.folder / f"steps-{steps}" / "report" / "results.json"

    @property
    def costs(self) -> Path:
        """What a step costs, by samples."""
        return self.folder / "costs.json"

    @property
    def families(self) -> Path:
        """Losses of other families' first steps."""
        return self.folder / "families.json"

    @property
    def sweep(self) -> tuple[int, int]:
        """Fewer and more steps than `steps`, for how much they matter."""
        return self.steps // 4, 3 * self.steps // 2

    def trained(self, title: str, steps: int | None = None) -> str:
        """What the reports call a trained model."""
        return f"{title}, {self.steps if steps is None else steps} steps"

    def untrained(self, title: str) -> str:
        """What they call the base weights under a scaling."""
        return f"{title}, untrained"

    @property
    def earlier(self) -> Path | None:
        """Figures of an earlier run of the same commands, for rows that this one has not measured."""
        return EARLIER if self.steps == EARLIER_STEPS else None

    @cached_property
    def models(self) -> dict[str, Figures]:
        """Everything that has been measured, by name; this run's own before earlier ones."""
        files = [*map(self.swept, self.sweep), self.sampled, self.compared]
        there = [file for file in files if file.exists()]
        found = read_figures(self.earlier) if self.earlier else {}
        return found | {model.name: figures_of(model) for file in there for model in read_results(file)}

    def perplexity(self, model: str, length: int) -> float:
        """Of a model at a context length.

        Raises:
            KeyError: not measured.
        """
        return self._figures(model).perplexity[length]

    def k_max(self, model: str) -> float:
        """Longest document length up to which keys at the beginning are found.

        Raises:
            KeyError: not measured.
        """
        return float(self._figures(model).k_max)

    def found(self, model: str) -> float:
        """Share of the pass keys found in documents longer than the base model's window.

        Raises:
            KeyError: not measured.
        """
        return self._figures(model).found

    def noted(self, file: Path) -> dict[str, Any]:
        """What a short run wrote down.

        Raises:
            KeyError: it has not been run.
        """
        if not file.exists():
            raise KeyError(file.name)
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def _figures(self, model: str) -> Figures:
        figures = self.models[model]
        if figures.date:
            self.dates.add(figures.date)
        return figures
