"""The task `position_loss`: loss by a token's position in the text, which shows whether context is used.

A model that uses what it has read loses less the further it reads; one that has left its window loses more.
Every text is read once, from its first token to the target window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.charts import LineChart, Series
from nemo_pi.evaluation.length_plots import plot_by_length
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.scorer import Scorer, score_texts
from nemo_pi.evaluation.tasks.base import (
    Cost,
    Measured,
    Plan,
    Progress,
    Task,
    TaskContext,
    TaskResult,
    batched,
)
from nemo_pi.evaluation.text_tables import MISSING, Table, thin
from nemo_pi.evaluation.verdicts import Answer, Finding, Verdict
from nemo_pi.units import plural

_USED, _NEARLY = 0.02, 0.1
"""Nats that the loss beyond the original window may lie above that within it."""


@dataclass(frozen=True)
class PositionLossResult(TaskResult):
    """Mean losses of the stretches of a text."""

    by_end: dict[int, float]
    """Last position of a stretch, in tokens → mean loss of its tokens, in nats."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; a loss that is no number becomes the text "nan" or "inf"."""
        values = {str(end): loss if math.isfinite(loss) else str(loss) for end, loss in self.by_end.items()}
        return {"protocol": self.protocol, "by_end": values}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PositionLossResult:
        """Read what `to_json` returned."""
        return cls(content["protocol"], {int(end): float(loss) for end, loss in content["by_end"].items()})


@dataclass(frozen=True)
class PositionLoss(Task[list[Tensor], PositionLossResult]):
    """Mean loss of each stretch of the context's documents, each read up to the target window."""

    name = "position_loss"
    title = "Loss by position"
    result_type = PositionLossResult

    stretch: int | None = None
    """Tokens of a stretch; None: a thirty-second of the target window."""
    max_documents: int | None = None
    """Documents that are read, first ones first; None: all."""

    def __post_init__(self) -> None:
        for name in ("stretch", "max_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, required="≥ 1, or null", given=value, fix=f"{name}=null")

    def plan(self, context: TaskContext) -> Plan[list[Tensor]]:
        """Cut the documents to the target window.

        Raises:
            DataError: none is longer than the window. ConfigError: a stretch longer than the window.
        """
        window, own = context.target_window, start_ids(context.tokenizer) if context.add_bos else ()
        stretch = self.stretch or max(1, window // 32)
        if stretch > window:
            raise ConfigError(
                "stretch", required=f"at most the target window, {window}", given=stretch, fix="lower it"
            )
        texts = [torch.tensor([*own, *document])[: window + 1] for document in context.documents]
        texts = [text for text in texts if len(text) == window + 1][: self.max_documents]
        if not texts:
            raise DataError(
                "documents",
                required=f"a document of more than {plural(window, 'token')}",
                given="none",
                fix="give longer documents, or a smaller target_window",
            )
        start = "BOS first" if own else "no BOS"
        protocol = {
            "name": "loss by position",
            "summary": f"mean loss of stretches of {plural(stretch, 'token')} over "
            f"{plural(len(texts), 'document')}, each read once from its first token to the target window, "
            f"{start}",
            "stretch": stretch,
            "num_documents": len(texts),
        }
        batches = math.ceil(len(texts) / max(1, context.batch_tokens // window))
        return Plan(texts, context, Cost(batches, window * len(texts)), protocol)

    def run(self, scorer: Scorer, plan: Plan[list[Tensor]], progress: Progress) -> PositionLossResult:
        """Read every text once."""
        window, stretch = plan.context.target_window, plan.protocol["stretch"]
        total_S, done = torch.zeros(window, dtype=torch.float64), 0
        progress("loss by position", 0, plan.cost.tokens)
        for texts in batched(plan.work, max(1, plan.context.batch_tokens // window)):
            scores = score_texts(scorer, torch.stack(texts))
            total_S -= scores.logprob_BS.cpu().double().sum(dim=0)
            done += window * len(texts)
            progress("loss by position", done, plan.cost.tokens)
        mean_S = total_S / len(plan.work)
        ends = [*range(stretch, window, stretch), window]
        by_end = {end: float(mean_S[start:end].mean()) for start, end in zip([0, *ends], ends, strict=False)}
        return PositionLossResult(plan.protocol, by_end)

    @classmethod
    def table(cls, models: Sequence[Measured[PositionLossResult]]) -> Table:
        """Return losses by the end of their stretch."""
        ends = thin(sorted({end for model in models if model.result for end in model.result.by_end}))
        lines = []
        for model in models:
            losses = model.result.by_end if model.result else {}
            lines.append((model.model, *(f"{losses[end]:.3f}" if end in losses else MISSING for end in ends)))
        title = "Loss in nats per token of the stretch that ends at each position (lower is better)"
        return Table(title, ("model", *(f"{end:,}" for end in ends)), tuple(lines))

    @classmethod
    def plot(cls, models: Sequence[Measured[PositionLossResult]], path: Path) -> Path | None:
        """Draw loss against position, as far as it is finite."""
        points = [_points(model) for model in models]
        subtitle = "mean over documents that are read once, from their first token"
        return plot_by_length(
            models,
            points,
            path,
            title="Loss by position",
            subtitle=subtitle,
            y_label="nats per token",
            limits=None,
        )

    @classmethod
    def verdicts(cls, models: Sequence[Measured[PositionLossResult]]) -> Sequence[Verdict]:
        """Say whether what stands far back still lowers the loss."""
        rule = (
            "Mean loss of all stretches beyond the original window, less that of the stretches in its "
            f"second half. Yes: at most {_USED:g} nats more. Partly: at most {_NEARLY:g} more. No: above "
            "that."
        )
        findings = tuple(_finding(model, model.result) if model.result else None for model in models)
        return (Verdict("Does it use what it has read?", rule, findings, _charts(models)),)


def _finding(model: Measured[PositionLossResult], result: PositionLossResult) -> Finding:
    window = model.original_window
    inside = [loss for end, loss in result.by_end.items() if window / 2 < end <= window]
    beyond = [loss for end, loss in result.by_end.items() if end > window]
    if not inside or not beyond:
        return Finding("unknown", "no stretch ends in the second half of the original window, or beyond it")
    near, far = sum(inside) / len(inside), sum(beyond) / len(beyond)
    text = f"{near:.3f} nats a token up to {window:,} tokens and {far:.3f} beyond"
    # Written so that NaN is no.
    answer: Answer = "yes" if far - near <= _USED else "partly" if far - near <= _NEARLY else "no"
    return Finding(answer, text, f"{far - near:+.3f} nats")


def _charts(models: Sequence[Measured[PositionLossResult]]) -> tuple[LineChart, ...]:
    series = tuple(
        Series(model.model, points, i) for i, model in enumerate(models) if (points := _points(model))
    )
    if not series:
        return ()
    windows = sorted({model.original_window for model in models})
    chart = LineChart(
        "Loss by position",
        "Mean loss of each stretch of the documents, which are read once from their first token; each "
        "point is where its stretch ends. A line that falls or stays is a model that uses its context.",
        "position (tokens)",
        "nats per token",
        series,
        log_x=False,
        marks=tuple((float(window), f"original window: {window:,}") for window in windows),
        digits=".3f",
    )
    return (chart,)


def _points(model: Measured[PositionLossResult]) -> tuple[tuple[float, float], ...]:
    """(end of a stretch, loss) as far as it is finite."""
    losses = model.result.by_end.items() if model.result else ()
    return tuple((float(end), loss) for end, loss in losses if math.isfinite(loss))
