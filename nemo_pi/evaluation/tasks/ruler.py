"""The task `ruler`: retrieval, tracking, aggregation and question answering by length (arXiv 2404.06654)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.length_plots import plot_by_length
from nemo_pi.evaluation.prompts import LEAST_PROSE, answered, prose_of, samples
from nemo_pi.evaluation.ruler.choice import check_names, chosen, files_of_questions, part_of_all
from nemo_pi.evaluation.ruler.questions import read_questions
from nemo_pi.evaluation.ruler.result import PASSING, RELATIVE, RulerResult, means_over
from nemo_pi.evaluation.ruler.sample import Maker
from nemo_pi.evaluation.ruler.subtasks import OF_PROSE, SUBTASKS, Material
from nemo_pi.evaluation.ruler.verdict import effective_context
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import (
    Cost,
    Gate,
    Measured,
    Plan,
    Progress,
    Task,
    TaskContext,
    at_each_length,
    batched,
    longest_length,
    require_some,
)
from nemo_pi.evaluation.text_tables import MISSING, Table, thin
from nemo_pi.evaluation.verdicts import Verdict
from nemo_pi.evaluation.windows import doubling_lengths
from nemo_pi.units import plural


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
    gates = {
        "effective_length": Gate(
            lambda models, model: None if model.result is None else model.result.effective_length(),
            at_most=False,
            of="RULER's effective length",
            detail=lambda result: f"by the mean of {result.averaged()}",
            reach=longest_length,
        )
    }

    lengths: tuple[int, ...] | None = None
    """Tokens of prompt and answer; None: original window, twice that, … target window, without those too
    short for a subtask."""
    subtasks: tuple[str, ...] | None = None
    """Names out of SUBTASKS, or `qa` for both of questions; None: all that there is material for: those of
    prose need `documents`, `qa_1` and `qa_2` a file of `questions` each."""
    samples: int = 500
    """Prompts of each subtask at each length; 500 in the paper. The report shows the interval that so many
    leave."""
    seed: int = 42
    """Of the prompts."""
    questions: str | tuple[str | None, ...] | None = None
    """JSON lines for `qa_1`, or a list of files for `qa_1` (SQuAD in the paper) and `qa_2` (HotpotQA), either
    of them null: question, answers, paragraphs; None: no questions."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError("samples", required="≥ 1", given=self.samples, fix="samples=500 is the paper's")
        require_some(self, lengths="[4096, 8192], or null", subtasks="[vt, fwe], or null")
        files_of_questions(self.questions)
        check_names(self.subtasks or ())

    def plan(self, context: TaskContext) -> Plan[RulerPlan]:
        """Read what prompts are made of, and build the shortest of each subtask.

        Raises:
            ConfigError: a subtask without its material.
            DataError: lengths too short, questions that cannot be read.
            BackendUnavailableError: the list of words is not installed.
        """
        context.check_lengths("lengths", self.lengths or ())
        material = self._material(context)
        names = chosen(self.subtasks, material)
        wanted = self.lengths or doubling_lengths(context.original_window, context.target_window)
        makers: dict[int, dict[str, Maker]] = {}
        too_long: dict[int, list[str]] = {}
        for length in sorted(set(wanted)):
            made = {name: SUBTASKS[name](material, length) for name in names}
            optional = self.lengths is None and length < max(wanted)
            if long := [name for name in made if not self._fits(context, made[name], name, length, optional)]:
                too_long[length] = long
            else:
                makers[length] = made
        return Plan(
            RulerPlan(makers, self.samples, self.seed),
            context,
            self._cost(context, makers),
            self._protocol(makers, too_long),
        )

    def _fits(self, context: TaskContext, maker: Maker, name: str, length: int, optional: bool) -> bool:
        try:
            next(samples(context, maker, length, self._key(name, length), 1))
        except DataError:
            if not optional:
                raise
            return False
        return True

    def run(self, scorer: Scorer, plan: Plan[RulerPlan], progress: Progress) -> RulerResult:
        """Answer every prompt greedily."""
        done, context = 0, plan.context
        progress("ruler", done, plan.cost.tokens)
        scores: dict[int, dict[str, float]] = {}
        for length, makers in plan.work.makers.items():
            scores[length] = {}
            for name, maker in makers.items():
                made = samples(context, maker, length, self._key(name, length), self.samples)
                total = 0.0
                for batch in batched(made, max(1, context.batch_tokens // length)):
                    total += answered(scorer, context, maker, batch)
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
            f"{means_over(models)}; effective: longest length up to which it is ≥ {PASSING}, relative: ≥ "
            f"{RELATIVE:.0%} of the own score at the original window",
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
        counts = sorted({len(names) for m in models if m.result for names in m.result.scores.values()})
        averaged = f"mean of {' or '.join(map(str, counts))} of {len(SUBTASKS)} subtasks in per cent"
        subtitle = f"{averaged}; dashed: {PASSING}, the score that counts as reading"
        return plot_by_length(models, points, path, title="RULER by length", subtitle=subtitle, level=PASSING)

    @classmethod
    def verdicts(cls, models: Sequence[Measured[RulerResult]]) -> Sequence[Verdict]:
        """Say how long each model's context is by RULER's bar."""
        return (effective_context(models),)

    def _material(self, context: TaskContext) -> Material:
        # Decoding a book takes as long as hundreds of prompts.
        hides = self.subtasks is None or any(name in OF_PROSE for name in self.subtasks)
        prose = prose_of(context) if hides else []
        questions = {name: read_questions(path) for name, path in files_of_questions(self.questions).items()}
        return Material(prose if len(prose) >= LEAST_PROSE else [], questions)

    def _key(self, name: str, length: int) -> str:
        return f"ruler/{self.seed}/{name}/{length}"

    def _cost(self, context: TaskContext, makers: dict[int, dict[str, Maker]]) -> Cost:
        batches = read = written = 0
        for length, by_name in makers.items():
            for maker in by_name.values():
                batches += math.ceil(self.samples / max(1, context.batch_tokens // length))
                read += self.samples * (length - maker.new_tokens)
                written += self.samples * maker.new_tokens
        return Cost(batches, read, written)

    def _protocol(
        self, makers: dict[int, dict[str, Maker]], too_long: dict[int, list[str]]
    ) -> dict[str, object]:
        names = list(next(iter(makers.values())))
        asked = f"{plural(self.samples, 'sample')} of each of {part_of_all(names)}"
        prose = ", the essays replaced by the held-out documents" if set(names) & set(OF_PROSE) else ""
        return {
            "name": "ruler",
            "summary": f"its authors' prompts without a chat template, {at_each_length(asked)}; greedy; "
            f"score: the part of the answers that the text holds{prose}; prompts made here, "
            f"seed {self.seed}",
            "lengths": list(makers),
            # Lengths that were left out → subtasks that do not fit into them.
            "too_long": {str(length): long for length, long in too_long.items()},
            "subtasks": names,
            "samples": self.samples,
            "seed": self.seed,
        }


def _cells(result: RulerResult | None, lengths: Sequence[int]) -> list[str]:
    if result is None:
        return [MISSING] * (len(lengths) + 2)
    means = [
        f"{result.mean(n):.1f} ± {result.half_interval(n):.1f}" if n in result.scores else MISSING
        for n in lengths
    ]
    return [*means, f"{result.effective_length():,}", result.relative_text()]
