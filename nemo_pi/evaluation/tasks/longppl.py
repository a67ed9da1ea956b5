"""The task `longppl`: perplexity of the tokens that need long context (arXiv 2410.23771).

Plain perplexity hardly tells a model that reads far from one that does not: most tokens follow from the last
few hundred. LongPPL counts those alone whose loss falls by more than α nats when the whole text stands before
them instead of a short piece of it, and is then below β.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.bar_plots import plot_bars
from nemo_pi.evaluation.charts import Bar, BarChart
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.perplexity import mean_to_perplexity
from nemo_pi.evaluation.perplexity_verdicts import format_perplexity
from nemo_pi.evaluation.scorer import Scorer, score_texts
from nemo_pi.evaluation.tasks.base import Cost, Measured, Plan, Progress, Task, TaskContext, TaskResult
from nemo_pi.evaluation.text_tables import MISSING, Table
from nemo_pi.evaluation.verdicts import Answer, Finding, Verdict
from nemo_pi.units import plural

_MORE, _FEWER = 1.1, 0.9
"""Times the first model's share of key tokens."""


@dataclass(frozen=True)
class LongPplResult(TaskResult):
    """Perplexity of key tokens, and of all that were compared."""

    longppl: float | None
    """exp of the key tokens' mean loss; None where there are none."""
    perplexity: float | None
    """Of every token that could have been one; None where it is infinite."""
    num_key_tokens: int
    """Tokens that need long context."""
    num_tokens: int
    """Tokens that were compared."""


@dataclass(frozen=True)
class LongPpl(Task[list[Tensor], LongPplResult]):
    """LongPPL of the context's documents, each read up to the target window."""

    name = "longppl"
    title = "LongPPL"
    result_type = LongPplResult

    short: int = 4096
    """Tokens of the short context."""
    stride: int = 1024
    """Tokens that share a short context."""
    alpha: float = 2.0
    """Nats by which long context has to help."""
    beta: float = 2.0
    """Nats that the loss with long context stays below."""
    max_documents: int | None = None
    """Documents that are read, first ones first; None: all."""

    def __post_init__(self) -> None:
        for name in ("short", "stride"):
            if getattr(self, name) < 1:
                raise ConfigError(name, required="≥ 1 token", given=getattr(self, name), fix="give e.g. 1024")
        if self.max_documents is not None and self.max_documents < 1:
            raise ConfigError(
                "max_documents", required="≥ 1, or null", given=self.max_documents, fix="max_documents=null"
            )

    def plan(self, context: TaskContext) -> Plan[list[Tensor]]:
        """Cut the documents to the target window.

        Raises:
            DataError: no document is longer than a short context and its stride.
            ConfigError: a short context that the target window does not exceed.
        """
        window, own = context.target_window, start_ids(context.tokenizer) if context.add_bos else ()
        if self.short >= window:
            raise ConfigError(
                "short",
                required=f"below the target window, {plural(window, 'token')}",
                given=self.short,
                fix=f"tasks.longppl.short={max(1, window // 8)}",
            )
        texts = [torch.tensor([*own, *document])[:window] for document in context.documents]
        texts = [text for text in texts if len(text) > self.short + 1][: self.max_documents]
        if not texts:
            raise DataError(
                "documents",
                required=f"a document of more than {plural(self.short + 1, 'token')}",
                given="none",
                fix="give longer documents, or a smaller tasks.longppl.short",
            )
        pieces = [piece for text in texts for piece in self._pieces(len(text))]
        read = sum(map(len, texts)) + sum(end - start for start, _, end in pieces)
        protocol: dict[str, Any] = {
            "name": "longppl",
            "summary": f"tokens whose loss is below {self.beta:g} nats and more than {self.alpha:g} "
            f"lower with the whole text than with {plural(self.short, 'token')} before them (every "
            f"{self.stride} share one such context), found by the model itself; "
            f"{plural(len(texts), 'document')}, each up to the target window",
            "short": self.short,
            "stride": self.stride,
            "alpha": self.alpha,
            "beta": self.beta,
            "num_documents": len(texts),
        }
        return Plan(texts, context, Cost(len(texts) + len(pieces), read), protocol)

    def run(self, scorer: Scorer, plan: Plan[list[Tensor]], progress: Progress) -> LongPplResult:
        """Read each text whole, then the short contexts."""
        done, keys, every = 0, [], []
        progress("longppl", 0, plan.cost.tokens)
        for text in plan.work:
            whole_S = _losses(scorer, text)
            done += len(text)
            for start, first, end in self._pieces(len(text)):
                short_S = _losses(scorer, text[start:end])[first - start - 1 :]
                long_S = whole_S[first - 1 : end - 1]
                needs = ((short_S - long_S) > self.alpha) & (long_S < self.beta)
                keys.append(long_S[needs])
                every.append(long_S)
                done += end - start
                progress("longppl", done, plan.cost.tokens)
        key, total = torch.cat(keys), torch.cat(every)
        found = mean_to_perplexity(float(key.mean())) if key.numel() else None
        plain = mean_to_perplexity(float(total.mean()))
        finite = plain if math.isfinite(plain) else None
        return LongPplResult(plan.protocol, found, finite, key.numel(), total.numel())

    @classmethod
    def table(cls, models: Sequence[Measured[LongPplResult]]) -> Table:
        """Return LongPPL beside the plain perplexity of the same texts."""
        return Table(
            "LongPPL: perplexity of the tokens that need long context, each model's own (lower is better)",
            ("model", "LongPPL", "key tokens", "of", "perplexity of all"),
            tuple((model.model, *_cells(model.result)) for model in models),
        )

    @classmethod
    def plot(cls, models: Sequence[Measured[LongPplResult]], path: Path) -> Path | None:
        """Draw each model's share of key tokens, with its LongPPL beside the bar."""
        chart = _chart(models)
        results = [models[bar.place].result for bar in chart.bars]
        bars = tuple(
            replace(bar, text=f"{bar.text}, LongPPL {format_perplexity(result.longppl if result else None)}")
            for bar, result in zip(chart.bars, results, strict=True)
        )
        summary = f"{chart.summary} LongPPL: the perplexity of these tokens, each model's own."
        return plot_bars([replace(chart, summary=summary, bars=bars)], path, title=chart.title)

    @classmethod
    def verdicts(cls, models: Sequence[Measured[LongPplResult]]) -> Sequence[Verdict]:
        """Say whether each model finds more tokens than the first one that long context helps it with."""
        rule = (
            "The share of tokens that a model predicts well with the whole text and not with a short piece "
            f"of it, against the first model's. Yes: at least {_MORE:g} times as many. Partly: at least "
            f"{_FEWER:g} times. No: fewer. With a single model the share is only stated."
        )
        found = tuple(_finding(i, model, models[0]) for i, model in enumerate(models))
        chart = _chart(models)
        question = "Does it predict what needs long context?"
        return (Verdict(question, rule, found, (chart,) if chart.bars else ()),)

    def _pieces(self, length: int) -> Iterator[tuple[int, int, int]]:
        """(start, first token compared, end) of each short context; start + short is the first."""
        for start in range(0, length - self.short, self.stride):
            yield start, start + self.short, min(start + self.short + self.stride, length)


def _losses(scorer: Scorer, text_S: Tensor) -> Tensor:
    """Losses float64 of all tokens but the first."""
    return -score_texts(scorer, text_S[None]).logprob_BS[0].cpu().double()


def _cells(result: LongPplResult | None) -> tuple[str, ...]:
    if result is None:
        return (MISSING,) * 4
    return (
        format_perplexity(result.longppl),
        f"{result.num_key_tokens:,}",
        f"{result.num_tokens:,}",
        format_perplexity(result.perplexity),
    )


def _share(model: Measured[LongPplResult]) -> float | None:
    result = model.result
    return result.num_key_tokens / result.num_tokens if result and result.num_tokens else None


def _chart(models: Sequence[Measured[LongPplResult]]) -> BarChart:
    """Every model's share, without bars where none was measured."""
    bars = tuple(
        Bar(model.model, 100 * share, f"{share:.2%}", place)
        for place, model in enumerate(models)
        if (share := _share(model)) is not None
    )
    return BarChart(
        "Tokens that long context made predictable",
        "Share of the compared tokens that are key tokens of the model; longer is better.",
        "% of the compared tokens",
        bars,
    )


def _finding(index: int, model: Measured[LongPplResult], first: Measured[LongPplResult]) -> Finding | None:
    own = _share(model)
    if model.result is None:
        return None
    if own is None:
        return Finding("unknown", "no tokens were compared")
    text = (
        f"{model.result.num_key_tokens:,} of {model.result.num_tokens:,} tokens, LongPPL "
        f"{format_perplexity(model.result.longppl)}"
    )
    if index == 0:
        return Finding("reference", f"{text}; what the others are compared with", f"{own:.2%}")
    if first.result is None or first.result.num_tokens != model.result.num_tokens:
        return Finding(
            "unknown", f"{text}; the first model was not measured on the same tokens", f"{own:.2%}"
        )
    keys, theirs = model.result.num_key_tokens, first.result.num_key_tokens
    times = keys / theirs if theirs else math.inf if keys else 0.0
    answer: Answer = "yes" if times >= _MORE else "partly" if times >= _FEWER else "no"
    return Finding(answer, text, f"{own:.2%}")
