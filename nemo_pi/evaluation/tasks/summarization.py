"""The task `summarization`: reports summed up, as Position Interpolation does with GovReport, by length.

Prompt, truncation and sampling are the paper's (arXiv 2306.15595, §3.5 and figure 4); ROUGE is rouge-score's.
What the paper fine-tunes for it (ten epochs on 17,457 reports) is the user's to do: a model that has not seen
the task sums up as it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemo_pi.errors import BackendUnavailableError, ConfigError, DataError
from nemo_pi.evaluation.generation import GenerationRequest, generation_batches
from nemo_pi.evaluation.length_plots import plot_by_length
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.records import read_records
from nemo_pi.evaluation.sampling import Sampling
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.summary_verdict import KINDS, Summaries, rouge_l, sums_up
from nemo_pi.evaluation.tasks.base import (
    Cost,
    Measured,
    Plan,
    Progress,
    Task,
    TaskContext,
    require_counts,
    require_some,
)
from nemo_pi.evaluation.text_tables import MISSING, Table, thin
from nemo_pi.evaluation.verdicts import Verdict
from nemo_pi.evaluation.windows import doubling_lengths
from nemo_pi.units import plural

BEFORE = "Read the following article and then summarize it.\n"
BEHIND = "\nNow summarize the above article.\nSummary:"


@dataclass(frozen=True)
class SummarizationPlan:
    """Prompts of each length, shortest first, and the summaries that they are compared with."""

    prompts: dict[int, list[list[int]]]
    """Length → token ids."""
    references: dict[int, list[str]]
    """In the same order."""


@dataclass(frozen=True)
class Summarization(Task[SummarizationPlan, Summaries]):
    """ROUGE-1, 2 and L of generated summaries of a file's reports."""

    name = "summarization"
    title = "Summaries of reports"
    result_type = Summaries

    reports: str | None = None
    """JSON lines, each with a document and its summary; there are no others to be had without a network."""
    document_key: str = "report"
    """Key of the document in a line; in SCROLLS' files: input."""
    summary_key: str = "summary"
    """Key of the summary; in SCROLLS' files: output."""
    lengths: tuple[int, ...] | None = None
    """Tokens of prompt and summary; None: original window, twice that, … target window, without those too
    short for the summary."""
    max_document_tokens: int | None = 15_000
    """Documents are cut to so many tokens, and to what a length leaves; None: to the latter alone."""
    summary_tokens: int = 1_000
    """Tokens of a summary at most."""
    samples: int | None = None
    """Reports that are read, first ones first; None: all."""
    temperature: float = 0.5
    """Of the draws; 0 takes the likeliest token."""
    top_p: float | None = 0.95
    """Drawn among the likeliest tokens of this probability; None: all, as temperature 0 wants it."""
    seed: int = 1234
    """Of the draws."""

    def __post_init__(self) -> None:
        given = [name for name in ("max_document_tokens", "samples") if getattr(self, name) is not None]
        require_counts(self, "summary_tokens", *given)
        require_some(self, lengths="[8192, 16384], or null")
        self._sampling()

    def plan(self, context: TaskContext) -> Plan[SummarizationPlan]:
        """Read the reports and cut them to each length.

        Raises:
            ConfigError: no file of reports. DataError: what is wrong with it, or lengths too short.
            BackendUnavailableError: rouge-score is not installed.
        """
        context.check_lengths("lengths", self.lengths or ())
        if find_spec("rouge_score") is None:
            raise BackendUnavailableError(
                "tasks.summarization",
                required="the package rouge-score",
                given="none",
                fix="pip install rouge-score, or tasks.summarization=false",
            )
        reports = self._reports()
        tokenizer = context.tokenizer
        start = start_ids(tokenizer) if context.add_bos else ()
        before, behind = [*start, *tokenizer.encode(BEFORE)], tokenizer.encode(BEHIND)
        documents = [tokenizer.encode(document) for document, _ in reports]
        prompts: dict[int, list[list[int]]] = {}
        references: dict[int, list[str]] = {}
        for length in self._lengths(context, len(before) + len(behind) + self.summary_tokens):
            room = length - len(before) - len(behind) - self.summary_tokens
            room = min(room, self.max_document_tokens or room)
            # Shortest first, so that prompts of one length are neighbours; each keeps its draws' seed.
            order = sorted(range(len(reports)), key=lambda i: (min(len(documents[i]), room), i))
            prompts[length] = [[*before, *documents[i][:room], *behind] for i in order]
            references[length] = [reports[i][1] for i in order]
        work = SummarizationPlan(prompts, references)
        return Plan(work, context, self._cost(context, work), self._protocol(context, work))

    def run(self, scorer: Scorer, plan: Plan[SummarizationPlan], progress: Progress) -> Summaries:
        """Write every summary, and compare it."""
        from rouge_score.rouge_scorer import RougeScorer

        rouge, done, scores = RougeScorer(list(KINDS)), 0, {}
        progress("summarization", done, plan.cost.tokens)
        for length, prompts in plan.work.prompts.items():
            sums = dict.fromkeys(KINDS, 0.0)
            request = self._request(plan.context)
            for numbers in generation_batches([len(prompt) for prompt in prompts], request):
                own = replace(request, sampling=self._sampling(numbers[0]))
                for number, text in zip(
                    numbers, scorer.generate([prompts[number] for number in numbers], own), strict=True
                ):
                    found = rouge.score(plan.work.references[length][number], text.text or "")
                    sums = {kind: total + found[kind].fmeasure for kind, total in sums.items()}
                done += sum(len(prompts[number]) + self.summary_tokens for number in numbers)
                progress(f"summarization at {length}", done, plan.cost.tokens)
            scores[length] = {kind: total / len(prompts) for kind, total in sums.items()}
        return Summaries(plan.protocol, scores, plan.protocol["num_documents"])

    @classmethod
    def table(cls, models: Sequence[Measured[Summaries]]) -> Table:
        """Return the three kinds at each length."""
        lengths = thin(sorted({n for model in models if model.result for n in model.result.scores}), 4)
        header = ("model", *(f"{length:,} {kind[5:]}" for length in lengths for kind in KINDS))
        lines = []
        for model in models:
            scores = model.result.scores if model.result else {}
            cells = (
                f"{100 * scores[length][kind]:.1f}" if length in scores else MISSING
                for length in lengths
                for kind in KINDS
            )
            lines.append((model.model, *cells))
        title = "ROUGE-1, 2 and L (F, %) of summaries, by tokens of prompt and summary (higher is better)"
        return Table(title, header, tuple(lines))

    @classmethod
    def plot(cls, models: Sequence[Measured[Summaries]], path: Path) -> Path | None:
        """Draw ROUGE-L against length."""
        points = [rouge_l(model.result) for model in models]
        subtitle = "F measure of generated summaries against those of the file"
        return plot_by_length(
            models,
            points,
            path,
            title="ROUGE-L by length",
            subtitle=subtitle,
            y_label="ROUGE-L (%)",
            limits=None,
        )

    @classmethod
    def verdicts(cls, models: Sequence[Measured[Summaries]]) -> Sequence[Verdict]:
        """Say whether longer reports make better summaries."""
        return (sums_up(models),)

    def _reports(self) -> list[tuple[str, str]]:
        if self.reports is None:
            raise ConfigError(
                "reports",
                required="JSON lines with documents and summaries, such as GovReport's test part",
                given="none",
                fix="give tasks.summarization.reports=FILE.jsonl, or leave the task out",
            )

        def pair(content: Any) -> tuple[str, str]:
            found = content[self.document_key], content[self.summary_key]
            if not all(isinstance(text, str) and text.strip() for text in found):
                raise TypeError("both must be texts that are not empty")
            return found

        example = f'{{"{self.document_key}": "…", "{self.summary_key}": "…"}} (document_key, summary_key)'
        path, key = Path(self.reports).expanduser(), "tasks.summarization.reports"
        return read_records(path, "report", key, example, pair)[: self.samples]

    def _lengths(self, context: TaskContext, least: int) -> list[int]:
        wanted = self.lengths or doubling_lengths(context.original_window, context.target_window)
        holding = [length for length in sorted(set(wanted)) if length > least]
        if not holding or (self.lengths is not None and len(holding) < len(set(wanted))):
            raise DataError(
                "lengths",
                required=f"more than {plural(least, 'token')}: a prompt without a document, and a summary",
                given=min(wanted) if self.lengths is not None else max(wanted),
                fix="leave the length out, or lower summary_tokens",
            )
        return holding

    def _sampling(self, number: int = 0) -> Sampling:
        return Sampling(self.temperature, top_p=self.top_p, seed=self.seed + number)

    def _request(self, context: TaskContext) -> GenerationRequest:
        return GenerationRequest(
            self.summary_tokens,
            stop_ids=context.end_ids,
            decode=context.tokenizer.decode,
            batch_tokens=context.batch_tokens,
        )

    def _cost(self, context: TaskContext, work: SummarizationPlan) -> Cost:
        request, lengths = self._request(context), [[len(p) for p in own] for own in work.prompts.values()]
        return Cost(
            sum(len(generation_batches(own, request)) for own in lengths),
            sum(map(sum, lengths)),
            self.summary_tokens * sum(map(len, lengths)),
        )

    def _protocol(self, context: TaskContext, work: SummarizationPlan) -> dict[str, Any]:
        count, most = len(next(iter(work.references.values()))), self.max_document_tokens
        cut = "" if most is None else f"{plural(most, 'token')} and to "
        top = "" if self.top_p is None else f", top-p {self.top_p:g}"
        draws = "greedy" if self.temperature == 0 else f"drawn at temperature {self.temperature:g}{top}"
        return {
            "name": "summarization",
            "summary": f"{plural(count, 'report')} cut to {cut}what the length leaves, the prompt of "
            f"Position Interpolation's figure 4 (its parts tokenized one by one), {draws}, up to "
            f"{plural(self.summary_tokens, 'token')}; mean F measures of rouge-score without stemming "
            f"against the file's summaries, {'after BOS' if context.add_bos else 'no BOS'}",
            "lengths": list(work.prompts),
            "num_documents": count,
            "max_document_tokens": most,
            "summary_tokens": self.summary_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }
