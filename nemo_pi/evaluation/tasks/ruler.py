"""The task `ruler`: retrieval, tracking, aggregation and question answering by length (arXiv 2404.06654)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.length_plots import plot_by_length
from nemo_pi.evaluation.passkey_text import start_ids
from nemo_pi.evaluation.ruler.questions import read_questions
from nemo_pi.evaluation.ruler.result import PASSING, RELATIVE, RulerResult
from nemo_pi.evaluation.ruler.sample import Maker, Sample, fitted
from nemo_pi.evaluation.ruler.subtasks import OF_PROSE, OF_QUESTIONS, SUBTASKS, Material
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Cost, Measured, Plan, Progress, Task, TaskContext, batched
from nemo_pi.evaluation.text_tables import MISSING, Table, thin
from nemo_pi.evaluation.windows import doubling_lengths
from nemo_pi.rope.validation import did_you_mean
from nemo_pi.units import plural

_LEAST_PROSE = 1000
"""Words of a haystack; fewer would repeat before the eye."""


@dataclass(frozen=True)
class RulerPlan:
    """Lengths, subtasks and their makers, each tried with its shortest prompt."""

    makers: dict[int, dict[str, Maker]]
    """Length → subtask → what makes its prompts."""
    samples: int
    """Prompts of each."""
    seed: int
    """Of all of them."""


@dataclass(frozen=True)
class Ruler(Task[RulerPlan, RulerResult]):
    """RULER's tasks at each length, and the effective length."""

    name = "ruler"
    title = "RULER"
    result_type = RulerResult

    lengths: tuple[int, ...] | None = None
    """Tokens of prompt and answer; None: original window, twice that, … target window, without those too
    short for a subtask."""
    subtasks: tuple[str, ...] | None = None
    """Names out of SUBTASKS; None: all that there is material for: those of prose need `documents`, `qa`
    needs `questions`."""
    samples: int = 500
    """Prompts of each subtask at each length; 500 in the paper. The report shows the interval that so many
    leave."""
    seed: int = 42
    """Of the prompts."""
    questions: str | None = None
    """JSON lines for `qa`: question, answers, paragraphs; None: no questions."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError("samples", required="≥ 1", given=self.samples, fix="samples=500 is the paper's")
        for name, example in (("lengths", "[4096, 8192], or null"), ("subtasks", "[vt, fwe], or null")):
            if getattr(self, name) == ():
                raise ConfigError(name, required="at least one", given="[]", fix=f"give e.g. {example}")
        for name in self.subtasks or ():
            if name not in SUBTASKS:
                required = f"of {', '.join(SUBTASKS)}"
                raise ConfigError(
                    "subtasks", required=required, given=name, fix=did_you_mean(name, list(SUBTASKS))
                )

    def plan(self, context: TaskContext) -> Plan[RulerPlan]:
        """Read what prompts are made of, and build the shortest of each subtask.

        Raises:
            ConfigError: a subtask without its material.
            DataError: lengths too short, questions that cannot be read.
            BackendUnavailableError: the list of words is not installed.
        """
        context.check_lengths("lengths", self.lengths or ())
        material = self._material(context)
        names = self._names(material)
        wanted = self.lengths or doubling_lengths(context.original_window, context.target_window)
        makers: dict[int, dict[str, Maker]] = {}
        for length in sorted(set(wanted)):
            made = {name: SUBTASKS[name](material, length) for name in names}
            try:
                for name, maker in made.items():
                    room, seed = _room(context, maker, length), self._key(name, length, 0)
                    fitted(maker, partial(_count, context), room, seed, 0, guess=maker.least)
            except DataError:
                if self.lengths is not None or length == max(wanted):
                    raise
                continue
            makers[length] = made
        return Plan(
            RulerPlan(makers, self.samples, self.seed),
            context,
            self._cost(context, makers),
            self._protocol(makers),
        )

    def run(self, scorer: Scorer, plan: Plan[RulerPlan], progress: Progress) -> RulerResult:
        """Answer every prompt greedily."""
        done, context = 0, plan.context
        progress("ruler", done, plan.cost.tokens)
        scores: dict[int, dict[str, float]] = {}
        for length, makers in plan.work.makers.items():
            scores[length] = {}
            for name, maker in makers.items():
                samples = self._samples(context, maker, name, length)
                total = 0.0
                for batch in batched(samples, max(1, context.batch_tokens // length)):
                    total += _answered(scorer, context, maker, batch)
                    done += length * len(batch)
                    progress(f"ruler {name} at {length}", done, plan.cost.tokens)
                scores[length][name] = total / self.samples
        return RulerResult(plan.protocol, scores, self.samples, context.original_window)

    @classmethod
    def table(cls, models: Sequence[Measured[RulerResult]]) -> Table:
        """Return mean scores by length with their intervals, and both effective lengths."""
        results = [model.result for model in models if model.result]
        lengths = thin(sorted({length for result in results for length in result.scores}))
        return Table(
            "RULER's mean score in per cent by length in tokens, with 95% interval (higher is better); "
            f"effective: longest length up to which it is ≥ {PASSING}, relative: ≥ {RELATIVE:.0%} of the own "
            "score at the original window",
            ("model", *(f"{length:,}" for length in lengths), "effective", "relative"),
            tuple((model.model, *_cells(model.result, lengths)) for model in models),
        )

    @classmethod
    def plot(cls, models: Sequence[Measured[RulerResult]], path: Path) -> Path | None:
        """Draw mean scores against length."""
        points = [
            [] if model.result is None else [(n, model.result.mean(n)) for n in sorted(model.result.scores)]
            for model in models
        ]
        subtitle = f"mean of all subtasks in per cent; dashed: {PASSING}, the score that counts as reading"
        return plot_by_length(models, points, path, title="RULER by length", subtitle=subtitle, level=PASSING)

    def _names(self, material: Material) -> list[str]:
        missing = {name: "documents" for name in OF_PROSE if not material.prose}
        missing |= {name: "tasks.ruler.questions" for name in OF_QUESTIONS if not material.questions}
        if self.subtasks is None:
            return [name for name in SUBTASKS if name not in missing]
        for name in self.subtasks:
            if name in missing:
                raise ConfigError(
                    "subtasks",
                    required=f"{missing[name]}, which {name} is made of",
                    given=f"{name} without",
                    fix=f"give {missing[name]}=FILE, or leave {name} out",
                )
        return list(dict.fromkeys(self.subtasks))

    def _material(self, context: TaskContext) -> Material:
        texts = (context.tokenizer.decode(document) for document in context.documents)
        prose = [word for text in texts for word in text.split()]
        questions = [] if self.questions is None else read_questions(Path(self.questions).expanduser())
        return Material(prose if len(prose) >= _LEAST_PROSE else [], questions)

    def _key(self, name: str, length: int, number: int) -> str:
        return f"ruler/{self.seed}/{name}/{length}/{number}"

    def _samples(self, context: TaskContext, maker: Maker, name: str, length: int) -> Iterator[Sample]:
        size, room = None, _room(context, maker, length)
        for number in range(self.samples):
            seed = self._key(name, length, number)
            sample, size = fitted(maker, partial(_count, context), room, seed, number, size)
            yield sample

    def _cost(self, context: TaskContext, makers: dict[int, dict[str, Maker]]) -> Cost:
        batches = read = written = 0
        for length, by_name in makers.items():
            for maker in by_name.values():
                batches += math.ceil(self.samples / max(1, context.batch_tokens // length))
                read += self.samples * (length - maker.new_tokens)
                written += self.samples * maker.new_tokens
        return Cost(batches, read, written)

    def _protocol(self, makers: dict[int, dict[str, Maker]]) -> dict[str, object]:
        names = list(next(iter(makers.values())))
        prose = ", the essays replaced by the held-out documents" if set(names) & set(OF_PROSE) else ""
        return {
            "name": "ruler",
            "summary": f"RULER's prompts without a chat template, {plural(self.samples, 'sample')} of "
            f"{len(names)} subtasks ({', '.join(names)}) at each length, lengths include the answer; greedy; "
            f"score: the part of the answers that the text holds{prose}; prompts made here, "
            f"seed {self.seed}",
            "lengths": list(makers),
            "subtasks": names,
            "samples": self.samples,
            "seed": self.seed,
        }


def _count(context: TaskContext, text: str) -> int:
    return len(context.tokenizer.encode(text))


def _room(context: TaskContext, maker: Maker, length: int) -> int:
    return length - maker.new_tokens - (len(start_ids(context.tokenizer)) if context.add_bos else 0)


def _answered(scorer: Scorer, context: TaskContext, maker: Maker, batch: Sequence[Sample]) -> float:
    """The sum of a batch's scores."""
    tokenizer = context.tokenizer
    start = start_ids(tokenizer) if context.add_bos else ()
    request = GenerationRequest(
        maker.new_tokens,
        stop_ids=context.end_ids,
        decode=tokenizer.decode,
        batch_tokens=context.batch_tokens,
    )
    prompts = [[*start, *tokenizer.encode(sample.prompt)] for sample in batch]
    texts = scorer.generate(prompts, request)
    return sum(
        maker.score(text.text or "", sample.answers) for text, sample in zip(texts, batch, strict=True)
    )


def _cells(result: RulerResult | None, lengths: Sequence[int]) -> list[str]:
    if result is None:
        return [MISSING] * (len(lengths) + 2)
    means = [
        f"{result.mean(n):.1f} ± {result.half_interval(n):.1f}" if n in result.scores else MISSING
        for n in lengths
    ]
    return [*means, f"{result.effective_length():,}", f"{result.relative_length():,}"]
