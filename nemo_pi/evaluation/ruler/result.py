"""What a model scored in RULER by length, and how far it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_pi.evaluation.ruler.choice import part_of_all
from nemo_pi.evaluation.tasks.base import Measured, TaskResult
from nemo_pi.evaluation.text_tables import MISSING

PASSING = 85.6
"""Mean score in per cent that counts as reading: Llama-2-7B's at 4,096 tokens (arXiv 2404.06654, §4)."""
RELATIVE = 0.85
"""Part of the score at the original window that counts as reading as well (as NoLiMa does, 2502.05167)."""


@dataclass(frozen=True)
class RulerResult(TaskResult):
    """Scores by length, then subtask."""

    scores: dict[int, dict[str, float]]
    """Tokens of prompt and answer → subtask → mean score in [0, 1]."""
    samples: int
    """Prompts of each."""
    original_window: int
    """Where the model's own score is taken for the relative length, in tokens."""

    def mean(self, length: int) -> float:
        """The mean over subtasks, in per cent."""
        scores = self.scores[length]
        return 100 * sum(scores.values()) / len(scores)

    def averaged(self) -> str:
        """Which subtasks its means are over, in words."""
        return part_of_all(list(next(iter(self.scores.values()))))

    def half_interval(self, length: int) -> float:
        """Half of the mean's 95% interval, in per cent: Agresti and Coull's for each subtask, summed as
        independent. Also where every prompt was answered, a few prompts prove little."""
        n = self.samples + 4
        shares = [(score * self.samples + 2) / n for score in self.scores[length].values()]
        variance = sum(share * (1 - share) / n for share in shares) / len(shares) ** 2
        return 100 * 1.96 * math.sqrt(variance)

    def effective_length(self) -> int:
        """The longest length up to which every mean is at least PASSING; 0 if the shortest is not."""
        return self._longest(PASSING)

    def relative_length(self) -> int | None:
        """The same against the model's own mean at the longest length within its original window.

        None where no length within it was measured: there is nothing to compare with. 0 where the mean there
        is 0: a model that answers nothing has nothing to keep.
        """
        within = [length for length in self.scores if length <= self.original_window]
        if not within:
            return None
        own = self.mean(max(within))
        return self._longest(RELATIVE * own) if own else 0

    def relative_text(self) -> str:
        """`relative_length` as tables and charts show it."""
        relative = self.relative_length()
        return MISSING if relative is None else f"{relative:,}"

    def _longest(self, least: float) -> int:
        longest = 0
        for length in sorted(self.scores):
            if self.mean(length) < least:
                break
            longest = length
        return longest

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types, means and lengths among them for other programs."""
        return {
            "protocol": self.protocol,
            "samples": self.samples,
            "original_window": self.original_window,
            "scores": {str(length): dict(scores) for length, scores in self.scores.items()},
            "mean_percent": {str(length): self.mean(length) for length in self.scores},
            "half_interval_percent": {str(length): self.half_interval(length) for length in self.scores},
            "effective_length": self.effective_length(),
            "relative_length": self.relative_length(),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RulerResult:
        """Read what `to_json` returned."""
        scores = {
            int(length): {str(name): float(score) for name, score in by_task.items()}
            for length, by_task in content["scores"].items()
        }
        return cls(content["protocol"], scores, int(content["samples"]), int(content["original_window"]))


def means_over(models: Sequence[Measured[RulerResult]]) -> str:
    """Say which subtasks the models' means are over, each model's own where they differ."""
    averaged = [(model.model, model.result.averaged()) for model in models if model.result]
    if len({which for _, which in averaged}) == 1:
        return f"mean of {averaged[0][1]}"
    return "; ".join(f"{name}: mean of {which}" for name, which in averaged)
