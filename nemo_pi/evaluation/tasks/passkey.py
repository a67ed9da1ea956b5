"""The task `passkey`: retrieval of five digits by document length and depth (evaluation/passkey.py).

Under another protocol than `pi`, as that one's script asks for them (evaluation/passkey_evaluators.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.evaluation import passkey_evaluators
from nemo_pi.evaluation.heat_maps import ASKED, TITLE, plot_passkey
from nemo_pi.evaluation.length_plots import plot_by_length
from nemo_pi.evaluation.passkey import passkey_retrieval
from nemo_pi.evaluation.passkey_evaluators import EVALUATORS, EvaluatorKeys
from nemo_pi.evaluation.passkey_plan import PasskeyPlan
from nemo_pi.evaluation.passkey_result import PasskeyResult
from nemo_pi.evaluation.passkey_text import passkey_document, shortest_length
from nemo_pi.evaluation.retrieval_verdict import retrieves
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import (
    PI,
    Cost,
    Gate,
    Measured,
    Plan,
    Progress,
    Task,
    TaskContext,
    longest_length,
    require_counts,
    require_protocol,
    require_some,
)
from nemo_pi.evaluation.text_tables import MISSING, Table, thin
from nemo_pi.evaluation.verdicts import Verdict
from nemo_pi.units import plural

_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Passkey(Task[PasskeyPlan | EvaluatorKeys, PasskeyResult]):
    """Passkey retrieval over length × depth, and k_max."""

    name = "passkey"
    title = "Passkey"
    result_type = PasskeyResult
    gates = {
        "k_max": Gate(
            lambda models, model: _k_max_of(model),
            at_most=False,
            of="k_max of pass keys",
            reach=longest_length,
        )
    }

    lengths: tuple[int, ...] | None = None
    """Document lengths in tokens, at most the target window; None: `num_lengths` evenly spaced ones up to the
    target window, without those too short for a document."""
    num_lengths: int = 32
    """How many lengths None means; 32 in the paper."""
    depths: tuple[float, ...] = _DEPTHS
    """Where the passkey lies, 0 beginning to 1 end. k_max counts the shallowest only, so keep 0 among
    them."""
    trials: int = 10
    """Documents per cell; 10 in the papers of pi and yarn, 50 in PoSE's, whose cells are whole lengths."""
    seed: int = 1234
    """Of the documents."""
    generate: bool = False
    """True generates answers token by token instead of reading them off one pass: slower, and the same
    answers where frequencies do not depend on the length."""
    protocol: str = PI
    """"pi": these depths, and k_max of the shallowest (arXiv 2306.15595, §3.3.1). "pose" or "yarn": prompts
    at random places, generated, as those scripts do it, to compare with figures they published."""

    def __post_init__(self) -> None:
        require_counts(self, "num_lengths", "trials")
        theirs: dict[str, Any] = {"depths": _DEPTHS, "generate": False}
        require_protocol(self, (PI, *EVALUATORS), **({} if self.protocol == PI else theirs))
        if not 0 <= self.seed < 2**63:
            raise ConfigError("seed", required="from 0 to 2^63 - 1", given=self.seed, fix="give e.g. 1234")
        require_some(self, lengths="[512, 1024], or null", depths="[0.0, 0.5, 1.0]")

    def plan(self, context: TaskContext) -> Plan[PasskeyPlan | EvaluatorKeys]:
        """Choose lengths, and build the shortest document at each depth to see that all can be built.

        Raises:
            DataError: a length too short for a document. ConfigError: arguments that cannot be.
        """
        context.check_lengths("lengths", self.lengths or ())
        work = self.work(context)
        try:
            if isinstance(work, EvaluatorKeys):
                next(work.prompts(context, work.lengths[0]))
            else:
                for depth in work.depths:
                    shortest = work.lengths[0]
                    passkey_document(
                        context.tokenizer, shortest, 0, seed=work.seed, depth=depth, bos=work.bos
                    )
        except NemoPiError as error:  # of one document, which knows no lists
            raise error.respelled({"passkey length": "lengths", "depth": "depths"}) from error
        cost = Cost(work.num_batches(context.batch_tokens), work.num_tokens, work.num_new_tokens)
        return Plan(work, context, cost, work.protocol)

    def work(self, context: TaskContext) -> PasskeyPlan | EvaluatorKeys:
        """Say what is tried; no document is built, which takes long where they are long."""
        lengths, bos = self._lengths(context), context.add_bos
        if self.protocol == PI:
            return PasskeyPlan(lengths, self.depths, self.trials, self.seed, bos, self.generate)
        return EvaluatorKeys(self.protocol, tuple(sorted(set(lengths))), self.trials, self.seed, bos)

    def run(
        self, scorer: Scorer, plan: Plan[PasskeyPlan | EvaluatorKeys], progress: Progress
    ) -> PasskeyResult:
        """Try every document."""
        context = plan.context
        if isinstance(plan.work, EvaluatorKeys):
            grid = passkey_evaluators.run_evaluator(scorer, context, plan.work, progress)
        else:
            grid = passkey_retrieval(
                scorer,
                context.tokenizer,
                plan.work,
                batch_tokens=context.batch_tokens,
                progress=progress,
            )
        return PasskeyResult(plan.protocol, grid)

    @classmethod
    def table(cls, models: Sequence[Measured[PasskeyResult]]) -> Table:
        """Return rates by length over all depths, and k_max."""
        return grid_table(
            "Passkeys retrieved by document length in tokens, all depths together, and k_max", models
        )

    @classmethod
    def plot(cls, models: Sequence[Measured[PasskeyResult]], path: Path) -> Path | None:
        """Draw a heat map for each model that has results; without depths, rates against length."""
        if all(model.result is None or model.result.grid.depths for model in models):
            return plot_passkey(models, path)
        points = [
            [(n, 100 * model.result.grid.rate(n)) for n in model.result.grid.lengths] if model.result else []
            for model in models
        ]
        subtitle = "a number in filler at a random place, generated greedily; mean over places"
        return plot_by_length(models, points, path, title="Pass keys by length", subtitle=subtitle)

    @classmethod
    def verdicts(cls, models: Sequence[Measured[PasskeyResult]]) -> Sequence[Verdict]:
        """Say whether each model finds pass keys up to the target window, from any depth."""
        return (
            retrieves(
                models,
                question="Does it retrieve from anywhere?",
                thing="pass keys",
                title=TITLE,
                asked=ASKED,
            ),
        )

    def _lengths(self, context: TaskContext) -> tuple[int, ...]:
        if self.lengths is not None:
            return self.lengths
        least, count = shortest_length(context.tokenizer, context.add_bos), self.num_lengths
        lengths = (context.target_window * i // count for i in range(1, count + 1))
        found = tuple(length for length in lengths if length >= least)
        if not found:
            raise ConfigError(
                "lengths",
                required=f"room for a passkey document, at least {least} tokens",
                given=f"null: {plural(count, 'length')} up to the target window, {context.target_window}",
                fix="raise target_window, or leave the task out",
            )
        return found


def _k_max_of(model: Measured[PasskeyResult]) -> float | None:
    return None if model.result is None else model.result.k_max


def grid_table(title: str, models: Sequence[Measured[PasskeyResult]]) -> Table:
    """Rates by length over all depths, and k_max, a line a model."""
    results = [model.result for model in models if model.result]
    lengths = thin(sorted({length for result in results for length in result.grid.lengths}))
    return Table(
        f"{title} (higher is better)",
        ("model", *(f"{length:,}" for length in lengths), "k_max"),
        tuple(
            (model.model, *(_rate(model.result, length) for length in lengths), _k_max(model.result))
            for model in models
        ),
    )


def _rate(result: PasskeyResult | None, length: int) -> str:
    if result is None or length not in result.grid.lengths:
        return MISSING
    return f"{result.grid.rate(length):.0%}"


def _k_max(result: PasskeyResult | None) -> str:
    return MISSING if result is None else f"{result.k_max:,}"
