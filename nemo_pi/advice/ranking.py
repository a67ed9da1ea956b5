"""Candidates in order: the loss over all lengths first, pass keys where the losses are nearly alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_pi.evaluation.passkey_result import PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.tasks.longppl import LongPpl, LongPplResult
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity

ALIKE = 0.01
"""Nats: perplexities that differ by 1% are nearly alike."""


@dataclass(frozen=True)
class Standing:
    """What a candidate measured in its last round, in the numbers that rank it."""

    label: str
    """Of the proposal."""
    round: int
    """Number of that round, from 0."""
    results: ModelResults
    """Of that round."""

    @property
    def perplexity(self) -> Mapping[int, float]:
        """By length."""
        found = self.results.tasks[Perplexity.name]
        assert isinstance(found, PerplexityResult)
        return found.by_length

    @property
    def loss(self) -> float:
        """Nats per token, the mean over the lengths; infinite where one is not finite."""
        losses = [math.log(value) if value > 0 else math.inf for value in self.perplexity.values()]
        mean = sum(losses) / len(losses)
        return mean if math.isfinite(mean) else math.inf

    @property
    def passkeys(self) -> float | None:
        """Share of all pass keys that were found; None where none were looked for."""
        found = self.results.tasks.get(Passkey.name)
        if not isinstance(found, PasskeyResult):
            return None
        return sum(map(found.grid.rate, found.grid.lengths)) / len(found.grid.lengths)

    @property
    def longppl(self) -> LongPplResult | None:
        """None where it was not measured."""
        found = self.results.tasks.get(LongPpl.name)
        return found if isinstance(found, LongPplResult) else None


def rank(standings: Sequence[Standing]) -> list[Standing]:
    """The best first: those of later rounds before those dropped earlier, then by loss; among losses within
    ALIKE of the best of them, by pass keys."""
    remaining = sorted(standings, key=lambda each: (-each.round, each.loss))
    ordered: list[Standing] = []
    while remaining:
        best = remaining[0]
        alike = [each for each in remaining if each.round == best.round and each.loss <= best.loss + ALIKE]
        alike = alike or [best]  # infinite losses
        ordered += sorted(alike, key=lambda each: -(each.passkeys or 0.0))
        remaining = remaining[len(alike) :]
    return ordered
