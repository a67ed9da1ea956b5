"""Sliding-window perplexity by context length, as in Position Interpolation (arXiv 2306.15595, §3.2).

Shapes: B windows in a batch, S tokens in a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Progress, TaskResult, batched
from nemo_pi.evaluation.windows import Window
from nemo_pi.rope.positions import text_positions


@dataclass(frozen=True)
class PerplexityResult(TaskResult):
    """Perplexities that compare like with like: the same labels at every length."""

    by_length: dict[int, float]
    """Window length in tokens → exp of the mean negative log-likelihood over all scored labels."""

    @property
    def num_scored(self) -> int:
        """Labels scored, the same at each length."""
        return int(self.protocol["num_scored_tokens"])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types. Infinite and undefined perplexities become the texts "inf" and "nan"."""
        values = {
            str(length): value if math.isfinite(value) else str(value)
            for length, value in self.by_length.items()
        }
        return {"protocol": self.protocol, "by_length": values}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PerplexityResult:
        """Read what `to_json` returned."""
        by_length = {int(length): float(value) for length, value in content["by_length"].items()}
        return cls(**{**content, "by_length": by_length})


def finite_values(result: PerplexityResult | None) -> list[tuple[int, float]]:
    """(length, perplexity) by ascending length, as far as they are finite; none without a result."""
    values = result.by_length if result else {}
    return [(length, value) for length, value in sorted(values.items()) if math.isfinite(value)]


def run_plan(
    scorer: Scorer, plan: PerplexityPlan, *, batch_tokens: int = 8192, progress: Progress | None = None
) -> PerplexityResult:
    """Measures perplexity at each length of the plan.

    The mean is over labels, not over windows or documents, and is summed in float64.

    Args:
        scorer: the model.
        plan: what is read, and which labels are scored.
        batch_tokens: tokens per batch; at least one window.
        progress: called before the first and after every batch.
    """
    report = progress or (lambda *_: None)
    total, done = plan.num_tokens, 0
    report("perplexity", done, total)
    by_length = {}
    for length in plan.lengths:
        nll = 0.0
        for windows in batched(plan.windows(length), max(1, batch_tokens // length)):
            nll += _score_windows(scorer, plan, windows)
            done += length * len(windows)
            report(f"perplexity at {length}", done, total)
        by_length[length] = mean_to_perplexity(nll / plan.num_scored)
    return PerplexityResult(plan.protocol, by_length)


def _score_windows(scorer: Scorer, plan: PerplexityPlan, windows: Sequence[Window]) -> float:
    length = windows[0].length
    pairs = [plan.documents[w.document][w.start : w.start + length + 1] for w in windows]
    tokens_BS = torch.stack([pair[:-1] for pair in pairs])
    labels_BS = torch.stack([pair[1:] for pair in pairs])
    # In place of the first tokens, so that the window keeps its length.
    tokens_BS[:, : len(plan.start_ids)] = torch.tensor(plan.start_ids, dtype=torch.int64)
    scores = scorer.score(tokens_BS, labels_BS, text_positions(length).expand_as(tokens_BS))
    num_scored_B = torch.tensor([w.num_scored for w in windows])
    counts_BS = torch.arange(length) >= length - num_scored_B[:, None]
    # masked_select, not a product with the mask: 0 · inf would be NaN.
    return -float(scores.logprob_BS.cpu().double().masked_select(counts_BS).sum())


def mean_to_perplexity(mean_nll: float) -> float:
    """The exponential of a mean negative log-likelihood in nats; infinite where a float cannot hold it."""
    try:
        # From 710 nats a label on, the perplexity is more than a float holds.
        return math.exp(mean_nll)
    except OverflowError:
        return math.inf
