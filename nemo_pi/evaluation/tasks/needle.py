"""The task `needle`: one number hidden in real prose, by length and depth, generated (a heat map)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.evaluation.heat_maps import plot_passkey
from nemo_pi.evaluation.needle_text import NeedleAtDepth
from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult, k_max_rule
from nemo_pi.evaluation.prompts import answered, haystack, room, samples
from nemo_pi.evaluation.retrieval_verdict import retrieves
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import (
    Cost,
    Measured,
    Plan,
    Progress,
    Task,
    TaskContext,
    at_each_length,
    batched,
    require_counts,
    require_some,
)
from nemo_pi.evaluation.tasks.passkey import grid_table
from nemo_pi.evaluation.text_tables import Table
from nemo_pi.evaluation.verdicts import Verdict
from nemo_pi.units import plural

TITLE = "Needle in prose by length and depth"
ASKED = "Seven digits in held-out prose, generated greedily"


@dataclass(frozen=True)
class NeedlePlan:
    """Lengths, depths, and who makes the prompts of each depth."""

    lengths: tuple[int, ...]
    """Tokens of prompt and answer, ascending."""
    makers: dict[float, NeedleAtDepth]
    """By depth, ascending."""


@dataclass(frozen=True)
class Needle(Task[NeedlePlan, PasskeyResult]):
    """Retrieval of a number from the context's documents over length × depth."""

    name = "needle"
    title = "Needle in prose"
    result_type = PasskeyResult

    lengths: tuple[int, ...] | None = None
    """Tokens of prompt and answer; None: `num_lengths` evenly spaced ones up to the target window."""
    num_lengths: int = 8
    """How many lengths None means."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the number lies, 0 beginning to 1 end."""
    trials: int = 5
    """Prompts of each length and depth."""
    seed: int = 1234
    """Of the prompts."""

    def __post_init__(self) -> None:
        require_counts(self, "num_lengths", "trials")
        require_some(self, lengths="[512, 1024], or null", depths="[0.0, 0.5, 1.0]")
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise ConfigError(
                    "depths", required="from 0 (beginning) to 1 (end)", given=depth, fix="give e.g. [0.5]"
                )

    def plan(self, context: TaskContext) -> Plan[NeedlePlan]:
        """Choose lengths, and build the shortest prompt.

        Raises:
            DataError: no prose, or a length too short for a prompt.
        """
        context.check_lengths("lengths", self.lengths or ())
        prose = haystack(context, "needle")
        makers = {depth: NeedleAtDepth(prose, depth) for depth in sorted(set(self.depths))}
        even = [context.target_window * i // self.num_lengths for i in range(1, self.num_lengths + 1)]
        lengths = [
            length for length in sorted(set(self.lengths or even)) if self._holds(context, makers, length)
        ]
        cells = len(lengths) * len(makers)
        new = NeedleAtDepth.new_tokens
        read = self.trials * len(makers) * (sum(lengths) - new * len(lengths))
        batches = sum(
            len(makers) * -(-self.trials // max(1, context.batch_tokens // length)) for length in lengths
        )
        protocol: dict[str, Any] = {
            "name": "needle",
            "summary": "a number of seven digits between two sentences of the held-out documents, asked for "
            "as EasyContext does, found where the generated text holds it; "
            f"{at_each_length(plural(self.trials, 'trial'), ' and depth')}; {k_max_rule(min(makers))}",
            "lengths": lengths,
            "depths": list(makers),
            "num_trials": self.trials,
            "seed": self.seed,
        }
        cost = Cost(batches, read, self.trials * cells * new)
        return Plan(NeedlePlan(tuple(lengths), makers), context, cost, protocol)

    def run(self, scorer: Scorer, plan: Plan[NeedlePlan], progress: Progress) -> PasskeyResult:
        """Answer every prompt greedily."""
        context, done, successes = plan.context, 0, []
        progress("needle", 0, plan.cost.tokens)
        for length in plan.work.lengths:
            counts = []
            for depth, maker in plan.work.makers.items():
                key, found = f"needle/{self.seed}/{depth}/{length}", 0.0
                made = samples(context, maker, length, key, self.trials)
                for batch in batched(made, max(1, context.batch_tokens // length)):
                    found += answered(scorer, context, maker, batch)
                    done += length * len(batch)
                    progress(f"needle at {length}", done, plan.cost.tokens)
                counts.append(round(found))
            successes.append(tuple(counts))
        depths = tuple(plan.work.makers)
        return PasskeyResult(
            plan.protocol, PasskeyGrid(plan.work.lengths, depths, self.trials, tuple(successes))
        )

    @classmethod
    def table(cls, models: Sequence[Measured[PasskeyResult]]) -> Table:
        """Return rates by length over all depths, and k_max."""
        return grid_table("Needles found by prompt length in tokens, all depths together, and k_max", models)

    @classmethod
    def plot(cls, models: Sequence[Measured[PasskeyResult]], path: Path) -> Path | None:
        """Draw a heat map for each model that has results."""
        return plot_passkey(models, path, title=TITLE, asked=ASKED)

    @classmethod
    def verdicts(cls, models: Sequence[Measured[PasskeyResult]]) -> Sequence[Verdict]:
        """Say whether each model finds needles up to the target window, from any depth."""
        return (
            retrieves(
                models,
                question="Does it find a fact in real prose?",
                thing="needles",
                title=TITLE,
                asked=ASKED,
            ),
        )

    def _holds(self, context: TaskContext, makers: dict[float, NeedleAtDepth], length: int) -> bool:
        """Whether a prompt fits; a length that was asked for must."""
        maker = next(iter(makers.values()))
        try:
            next(samples(context, maker, length, "shortest", 1))
        except NemoPiError:
            if self.lengths is not None or length == context.target_window:
                raise
            return False
        return room(context, maker, length) > 0
