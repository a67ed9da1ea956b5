"""The results of one evaluated model, as the report, the plots and other programs read them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nemo_pi.errors import DataError

FORMAT = "nemo_pi evaluation 1"


@dataclass(frozen=True)
class PasskeyGrid:
    """Passkey retrieval over length × depth."""

    lengths: tuple[int, ...]
    """Tokens of the documents, ascending."""
    depths: tuple[float, ...]
    """Where the passkey lies, ascending from 0 (beginning) to 1 (end)."""
    num_trials: int
    """Documents per cell."""
    successes: tuple[tuple[int, ...], ...]
    """Answers retrieved, by length, then depth."""

    def rate(self, length: int, depth: float | None = None) -> float:
        """Return the success rate at a length: of one depth, or of all depths together."""
        counts = self.successes[self.lengths.index(length)]
        if depth is None:
            return sum(counts) / (len(counts) * self.num_trials)
        return counts[self.depths.index(depth)] / self.num_trials

    def k_max(self, threshold: float = 0.2) -> int:
        """Return the largest tested k such that every tested k' ≤ k succeeds in ≥ `threshold` of its trials.

        0 where already the shortest fails (arXiv 2306.15595, §3.3.1). In the paper k is how far the passkey
        lies from the end of the input, so only the shallowest depth counts here: near the beginning, that
        distance is the length but for the instruction. A mean over depths would credit a model with a long
        window for finding passkeys that lie just before the question.
        """
        k_max = 0
        for length in self.lengths:
            if self.rate(length, self.depths[0]) < threshold:
                break
            k_max = length
        return k_max


@dataclass(frozen=True)
class EvaluationRow:
    """One model's results: a row of the report."""

    name: str
    """What the report calls the model."""
    original_window: int
    """Tokens the model was pretrained on."""
    target_window: int
    """Tokens it is evaluated up to."""
    perplexity: dict[int, float] = field(default_factory=dict)
    """Context length in tokens → perplexity; empty where it was not measured."""
    passkey: PasskeyGrid | None = None
    """Retrieval over length × depth; None where it was not measured."""
    k_max: int | None = None
    """`PasskeyGrid.k_max` in tokens; None where passkeys were not measured."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How the numbers were measured: "perplexity" and "passkey", each a mapping with a "name"."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types. Infinite and undefined perplexities become the texts "inf" and "nan"."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        row["perplexity"] = {str(length): _to_json(value) for length, value in self.perplexity.items()}
        row["passkey"] = self.passkey and {
            "lengths": list(self.passkey.lengths),
            "depths": list(self.passkey.depths),
            "num_trials": self.passkey.num_trials,
            "successes": [list(counts) for counts in self.passkey.successes],
        }
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> EvaluationRow:
        """Read what `to_json` wrote.

        Raises:
            DataError: not such a row.
        """
        try:
            perplexity = {int(length): float(value) for length, value in row["perplexity"].items()}
            grid = row["passkey"] and PasskeyGrid(
                tuple(row["passkey"]["lengths"]),
                tuple(row["passkey"]["depths"]),
                row["passkey"]["num_trials"],
                tuple(tuple(counts) for counts in row["passkey"]["successes"]),
            )
            return cls(**{**row, "perplexity": perplexity, "passkey": grid})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                "evaluation results",
                required="a row written by nemo_pi",
                given=f"{type(error).__name__}: {error}",
                mend="run the evaluation again",
            ) from error


def write_results(rows: Sequence[EvaluationRow], path: str | Path) -> Path:
    """Write rows as one JSON file, whole or not at all, and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "rows": [row.to_json() for row in rows]}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(
        json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    draft.replace(path)
    return path


def read_results(path: str | Path) -> list[EvaluationRow]:
    """Read the rows of a file that `write_results` wrote.

    Raises:
        DataError: no such file, not JSON, or of another format.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found, content = f"{type(error).__name__}: {error}", {}
    if found != FORMAT:
        raise DataError(
            str(path), required=f"a results file of format {FORMAT!r}", given=found, mend="run the evaluation"
        )
    return [EvaluationRow.from_json(row) for row in content["rows"]]


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
