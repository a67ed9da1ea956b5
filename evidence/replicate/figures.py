"""The figures of a model that rows ask for, from results.json or from a file of an earlier run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from demo.methods import WINDOW
from nemo_pi.evaluation.passkey_result import PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults


@dataclass(frozen=True)
class Figures:
    """Of one model."""

    perplexity: dict[int, float]
    """By context length in tokens."""
    k_max: int
    """Longest document length up to which keys at the very beginning are found."""
    found: float
    """Share of the pass keys found in documents longer than the base model's window."""
    date: str = ""
    """Of the earlier run that it comes from; empty: of this one."""


def figures_of(model: ModelResults) -> Figures:
    """Take them from what was measured now.

    Raises:
        KeyError: perplexity or pass keys were not measured.
    """
    perplexity, passkey = model.tasks["perplexity"], model.tasks["passkey"]
    assert isinstance(perplexity, PerplexityResult) and isinstance(passkey, PasskeyResult)
    rates = [passkey.grid.rate(length) for length in passkey.grid.lengths if length > WINDOW]
    return Figures(perplexity.by_length, passkey.k_max, sum(rates) / len(rates))


def read_figures(file: Path) -> dict[str, Figures]:
    """Read those of an earlier run, by the model's name."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: Figures(
            {int(length): value for length, value in model["perplexity"].items()},
            model["k_max"],
            model.get("found", 0.0),
            content["date"],
        )
        for name, model in content["models"].items()
    }
