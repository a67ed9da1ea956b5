"""The task `short`: perplexity at the original window, beside that of the model before its extension.

What an extension costs where the model could read before. The report's first model is the one that the others
are compared with, on the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_pi.evaluation.bar_plots import plot_bars
from nemo_pi.evaluation.charts import Bar, BarChart
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.perplexity import PerplexityResult, run_plan
from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.evaluation.perplexity_verdicts import KEPT, cost_within, format_perplexity, ratio_at_window
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Cost, Gate, Measured, Plan, Progress, Task, TaskContext
from nemo_pi.evaluation.text_tables import MISSING, Table
from nemo_pi.evaluation.verdicts import Verdict


@dataclass(frozen=True)
class Short(Task[PerplexityPlan, PerplexityResult]):
    """Sliding-window perplexity of the context's documents at the original window alone."""

    name = "short"
    title = "Within the original window"
    result_type = PerplexityResult
    gates = {
        "short_perplexity": Gate(
            lambda models, model: ratio_to_first(models, model),  # defined below the class
            at_most=True,
            of="perplexity at the original window, divided by the first model's",
            compares=True,
            usual=1.02,
        )
    }

    stride: int = 256
    """Labels per window after a document's first, in tokens; at most the original window."""
    max_tokens: int | None = None
    """Labels scored, over all documents; None: all."""

    def plan(self, context: TaskContext) -> Plan[PerplexityPlan]:
        """Choose the windows.

        Raises:
            DataError: documents that are missing or too short. ConfigError: arguments that cannot be.
        """
        work = PerplexityPlan.build(
            context.documents,
            (context.original_window,),
            stride=self.stride,
            max_tokens=self.max_tokens,
            bos_id=start_ids(context.tokenizer) if context.add_bos else None,
        )
        cost = Cost(work.num_batches(context.batch_tokens), work.num_tokens)
        return Plan(work, context, cost, work.protocol)

    def run(self, scorer: Scorer, plan: Plan[PerplexityPlan], progress: Progress) -> PerplexityResult:
        """Measure at the original window."""
        return run_plan(scorer, plan.work, batch_tokens=plan.context.batch_tokens, progress=progress)

    @classmethod
    def table(cls, models: Sequence[Measured[PerplexityResult]]) -> Table:
        """Return perplexities, and each divided by the first model's."""
        title = "Perplexity at the original window, and divided by the first model's (lower is better)"
        lines = tuple(
            (model.model, format_perplexity(_perplexity(model)), _ratio_text(ratio_to_first(models, model)))
            for model in models
        )
        return Table(title, ("model", "perplexity", "ratio"), lines)

    @classmethod
    def plot(cls, models: Sequence[Measured[PerplexityResult]], path: Path) -> Path | None:
        """Draw a bar for each finite perplexity, and where an extension counts as having kept the first's."""
        bars = tuple(
            Bar(model.model, value, _bar_text(models, model, value), place)
            for place, model in enumerate(models)
            if (value := _perplexity(model)) is not None and math.isfinite(value)
        )
        first = _perplexity(models[0])
        summary = "Of held-out text; shorter is better."
        level: tuple[float, str] | None = None
        if len(bars) > 1 and first is not None and math.isfinite(first):
            summary += f" In brackets: divided by the first model's. Dashed: {KEPT:g}, what counts as kept."
            level = (KEPT * first, f"kept: {KEPT:g} times the first")
        chart = BarChart("Perplexity at the original window", summary, "perplexity", bars, level)
        return plot_bars([chart], path, title=chart.title)

    @classmethod
    def verdicts(cls, models: Sequence[Measured[PerplexityResult]]) -> Sequence[Verdict]:
        """Say whether each model reads its original window as well as the first one does."""
        return (cost_within(models),)


def ratio_to_first(
    models: Sequence[Measured[PerplexityResult]], model: Measured[PerplexityResult]
) -> float | None:
    """A model's perplexity divided by the first one's; None where either is missing or of other tokens."""
    return ratio_at_window(model, models[0])


def _perplexity(model: Measured[PerplexityResult]) -> float | None:
    return next(iter(model.result.by_length.values())) if model.result else None


def _bar_text(
    models: Sequence[Measured[PerplexityResult]], model: Measured[PerplexityResult], value: float
) -> str:
    ratio = ratio_to_first(models, model)
    compared = ratio is not None and model is not models[0]
    return format_perplexity(value) + (f" ({ratio:.3f} ×)" if compared else "")


def _ratio_text(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{ratio:.3f}"
