"""The task `perplexity`: by context length, over sliding windows (the maths: evaluation/perplexity.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.evaluator_plan import WEIGHTS, EvaluatorPlan, run_evaluator
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.perplexity import PerplexityResult, run_plan
from nemo_pi.evaluation.perplexity_plan import PerplexityPlan
from nemo_pi.evaluation.perplexity_verdicts import (
    at_window,
    cost_within,
    format_perplexity,
    reads_further,
)
from nemo_pi.evaluation.plots import plot_perplexity
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import (
    PI,
    Cost,
    Measured,
    Plan,
    Progress,
    Task,
    TaskContext,
    require_protocol,
)
from nemo_pi.evaluation.text_tables import Table, thin
from nemo_pi.evaluation.verdicts import Verdict
from nemo_pi.evaluation.windows import WHOLE_DOCUMENT, doubling_lengths


@dataclass(frozen=True)
class Perplexity(Task[PerplexityPlan | EvaluatorPlan, PerplexityResult]):
    """Perplexity of the context's documents at several context lengths."""

    name = "perplexity"
    title = "Perplexity"
    result_type = PerplexityResult

    lengths: tuple[int, ...] | None = None
    """Context lengths in tokens, at most the target window; None: original window, twice that, … target
    window."""
    stride: int = 256
    """Labels per window after a document's first, in tokens."""
    scored: str = WHOLE_DOCUMENT
    """"whole_document" as in the paper, or "full_context", see `windows.plan_spans`."""
    max_tokens: int | None = None
    """Labels scored at each length, over all documents; None: all. Length L reads max_tokens * L / stride
    tokens."""
    protocol: str = PI
    """"pi": the same labels at every length, each once (arXiv 2306.15595, §3.2). "yarn", "pose" or "hf":
    windows and means as those evaluators take them, to compare with figures they published."""
    truncate: bool = False
    """With yarn, pose and hf: cut documents to one window, as their --truncate does."""

    def __post_init__(self) -> None:
        ours: dict[str, Any] = {"scored": WHOLE_DOCUMENT, "max_tokens": None}
        only = {"truncate": False} if self.protocol == PI else ours
        require_protocol(self, (PI, *WEIGHTS), **only)

    def plan(self, context: TaskContext) -> Plan[PerplexityPlan | EvaluatorPlan]:
        """Check documents and lengths, and choose the windows.

        Raises:
            DataError: documents that are missing or too short. ConfigError: arguments that cannot be.
        """
        lengths = self.lengths
        if lengths is None:
            lengths = doubling_lengths(context.original_window, context.target_window)
        context.check_lengths("lengths", self.lengths or ())
        start = start_ids(context.tokenizer) if context.add_bos else ()
        work: PerplexityPlan | EvaluatorPlan
        if self.protocol == PI:
            work = PerplexityPlan.build(
                context.documents,
                lengths,
                stride=self.stride,
                scored=self.scored,
                max_tokens=self.max_tokens,
                bos_id=start or None,
            )
        else:
            work = EvaluatorPlan.build(
                context.documents,
                lengths,
                stride=self.stride,
                name=self.protocol,
                truncate=self.truncate,
                start_ids=start,
            )
        cost = Cost(work.num_batches(context.batch_tokens), work.num_tokens)
        return Plan(work, context, cost, work.protocol)

    def run(
        self, scorer: Scorer, plan: Plan[PerplexityPlan | EvaluatorPlan], progress: Progress
    ) -> PerplexityResult:
        """Measure at each length."""
        batch_tokens = plan.context.batch_tokens
        if isinstance(plan.work, PerplexityPlan):
            return run_plan(scorer, plan.work, batch_tokens=batch_tokens, progress=progress)
        return run_evaluator(scorer, plan.work, batch_tokens=batch_tokens, progress=progress)

    @classmethod
    def table(cls, models: Sequence[Measured[PerplexityResult]]) -> Table:
        """Return perplexities by context length."""
        lengths = thin(
            sorted({length for model in models if model.result for length in model.result.by_length})
        )
        return Table(
            "Perplexity by context length in tokens (lower is better)",
            ("model", *(f"{length:,}" for length in lengths)),
            tuple((model.model, *(_cell(model.result, length) for length in lengths)) for model in models),
        )

    @classmethod
    def plot(cls, models: Sequence[Measured[PerplexityResult]], path: Path) -> Path | None:
        """Draw perplexity against context length, unless none is finite."""
        values = [value for model in models if model.result for value in model.result.by_length.values()]
        return plot_perplexity(models, path) if any(map(math.isfinite, values)) else None

    @classmethod
    def verdicts(cls, models: Sequence[Measured[PerplexityResult]]) -> Sequence[Verdict]:
        """Say how far each model reads, and what that cost at the original window, if measured there."""
        measured = any(at_window(model) is not None for model in models[1:])
        return (reads_further(models), *((cost_within(models),) if measured else ()))


def _cell(result: PerplexityResult | None, length: int) -> str:
    return format_perplexity(result.by_length.get(length) if result else None)
