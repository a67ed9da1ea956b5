"""What a model retrieved over length × depth, and k_max of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_pi.evaluation.tasks.base import TaskResult

K_MAX_SHARE = 0.2
"""Of the trials at a length, what k_max asks for (arXiv 2306.15595, section 3.3.1)."""


def k_max_rule(depth: float) -> str:
    """Say what k_max is, as protocols do; `PasskeyGrid.k_max` computes it."""
    return (
        "k_max: the longest tested length such that up to it "
        f"≥ {K_MAX_SHARE:.0%} of the trials at depth {depth:g} succeed at every length"
    )


@dataclass(frozen=True)
class PasskeyGrid:
    """Passkey retrieval over length × depth."""

    lengths: tuple[int, ...]
    """Tokens of the documents, ascending."""
    depths: tuple[float, ...]
    """Where the passkey lies, ascending from 0 (beginning) to 1 (end); empty: each trial drew its own."""
    num_trials: int
    """Documents per cell."""
    successes: tuple[tuple[int, ...], ...]
    """Answers retrieved, by length, then depth; one number a length without depths."""

    def rate(self, length: int, depth: float | None = None) -> float:
        """Return the success rate at a length: of one depth, or of all depths together."""
        counts = self.successes[self.lengths.index(length)]
        if depth is None:
            return sum(counts) / (len(counts) * self.num_trials)
        return counts[self.depths.index(depth)] / self.num_trials

    def k_max(self, threshold: float = K_MAX_SHARE) -> int:
        """Return the largest tested k such that every tested k' ≤ k succeeds in ≥ `threshold` of its trials.

        0 where already the shortest fails (arXiv 2306.15595, §3.3.1). In the paper k is how far the passkey
        lies from the end of the input, so only the shallowest depth counts here: near the beginning, that
        distance is the length but for the instruction. A mean over depths would credit a model with a long
        window for finding passkeys that lie just before the question.
        """
        k_max, shallowest = 0, self.depths[0] if self.depths else None
        for length in self.lengths:
            if self.rate(length, shallowest) < threshold:
                break
            k_max = length
        return k_max

    def passkey_context(self, threshold: float = 0.8) -> int:
        """Return the largest tested length that succeeds in ≥ `threshold` of its trials, 0 where none does.

        Whatever happens at shorter ones (arXiv 2309.00071, table 5).
        """
        return max((length for length in self.lengths if self.rate(length) >= threshold), default=0)


@dataclass(frozen=True)
class PasskeyResult(TaskResult):
    """What one model retrieved."""

    grid: PasskeyGrid
    """Counts over length × depth."""

    @property
    def k_max(self) -> int:
        """How far keys are found, in tokens, by the protocol's own rule and threshold."""
        return self.grid.passkey_context() if self.protocol.get("name") == "yarn" else self.grid.k_max()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, k_max among them for other programs."""
        grid = {
            "lengths": list(self.grid.lengths),
            "depths": list(self.grid.depths),
            "num_trials": self.grid.num_trials,
            "successes": [list(counts) for counts in self.grid.successes],
        }
        return {"protocol": self.protocol, "grid": grid, "k_max": self.k_max}

    def scalars(self) -> dict[str, float]:
        """Return k_max, and the rate at each length."""
        rates = {f"rate/{length}": self.grid.rate(length) for length in self.grid.lengths}
        return {"k_max": float(self.k_max), **rates}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PasskeyResult:
        """Read what `to_json` returned."""
        grid: dict[str, Any] = {**content["grid"]}
        grid |= {"lengths": tuple(grid["lengths"]), "depths": tuple(grid["depths"])}
        grid["successes"] = tuple(tuple(counts) for counts in grid["successes"])
        return cls(content["protocol"], PasskeyGrid(**grid))
