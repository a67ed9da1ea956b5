"""What is measured of how many candidates, so that all of it fits a time.

Where the time suffices, every candidate is measured on everything. Where it does not, candidates that read
worst are dropped after short rounds (successive halving, Jamieson & Talwalkar 2016, arXiv 1502.07943).
Candidates of one round read the same windows, so that their differences mean more than each number does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.evaluate import PlannedTask, plan_tasks
from nemo_pi.evaluation.passkey_text import shortest_length
from nemo_pi.evaluation.tasks.base import Task, TaskContext
from nemo_pi.evaluation.tasks.longppl import LongPpl
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from nemo_pi.evaluation.windows import FULL_CONTEXT, doubling_lengths

MOST_SHORT = 4096
"""Tokens of LongPPL's short context, as its authors have it; fewer where the original window is short."""
ENOUGH = 0.9
"""Share of the time that may be planned: measured speeds waver."""


@dataclass(frozen=True)
class Round:
    """One pass over candidates."""

    candidates: int
    """How many are measured, the best of the round before; the model as it is comes on top."""
    windows: int
    """Windows that perplexity reads at each length."""
    all_lengths: bool = True
    """Whether every doubled length is read, not only the original and the target window."""
    trials: int = 0
    """Pass keys at each length and depth; 0: none are looked for."""
    documents: int = 0
    """Documents that LongPPL reads; 0: none."""

    def tasks(self, context: TaskContext) -> list[Task[Any, Any]]:
        """Of evaluation, with these sizes."""
        original, target = context.original_window, context.target_window
        lengths = doubling_lengths(original, target) if self.all_lengths else (original, target)
        stride = max(1, original // 2)
        found: list[Task[Any, Any]] = [
            Perplexity(lengths, stride=stride, scored=FULL_CONTEXT, max_tokens=self.windows * stride)
        ]
        least = shortest_length(context.tokenizer, context.add_bos)
        long_enough = tuple(length for length in lengths if length >= least)
        if self.trials and long_enough:
            found.append(Passkey(long_enough, depths=(0.0, 0.5, 1.0), trials=self.trials))
        if self.documents:
            # Short contexts and what they share lie within the original window: every model reads them well.
            short = min(MOST_SHORT, max(1, original // 2))
            found.append(LongPpl(short, stride=max(1, original - short), max_documents=self.documents))
        return found

    def planned(self, context: TaskContext) -> list[PlannedTask]:
        """The tasks, planned.

        Raises:
            DataError, ConfigError: documents that are too short, or windows that cannot be.
        """
        return plan_tasks(self.tasks(context), context)

    def describe(self, context: TaskContext) -> str:
        """What it measures, in words."""
        first, last = f"{context.original_window:,}", f"{context.target_window:,}"
        lengths = f"every length from {first} to {last}" if self.all_lengths else f"{first} and {last}"
        parts = [f"{self.windows} window{'s' * (self.windows > 1)} at {lengths}"]
        if self.trials:
            parts.append(f"pass keys ({self.trials} at each length and depth)")
        if self.documents:
            parts.append(f"LongPPL ({self.documents} document{'s' * (self.documents > 1)})")
        return ", ".join(parts)


Rounds = tuple[Round, ...]
SIZES = (16, 12, 8, 6, 4, 3, 2, 1)
"""Windows at each length in the last round; pass keys and documents follow from it."""


def ladders(candidates: int, most_windows: int = SIZES[0]) -> Iterator[Rounds]:
    """Plans for so many candidates, the richest first: on everything, in rounds, in rounds with fewer."""
    sizes = [most_windows, *(size for size in SIZES if size < most_windows)]
    for windows in sizes[:5]:
        yield (_full(candidates, windows),)
    for windows in sizes:
        if candidates > 3:
            yield _halving(candidates, windows)
    for fewer in range(candidates, 1, -1):
        yield Round(fewer, 1, all_lengths=False), _full(1, 1)
    for fewer in range(candidates, 0, -1):
        yield (Round(fewer, 1, all_lengths=False),)


def total(rounds: Rounds, of: Callable[[Round], float]) -> float:
    """What all candidates of all rounds take together, the model as it is included, by what one takes."""
    return sum(of(each) * (each.candidates + 1) for each in rounds)


def choose(
    candidates: int, seconds_of: Callable[[Round], float], budget_seconds: float, most_windows: int = SIZES[0]
) -> Rounds:
    """The richest plan whose time is within the budget.

    Args:
        candidates: how many there are.
        seconds_of: of one candidate in a round.
        budget_seconds: for everything.
        most_windows: that are read at each length.

    Raises:
        ConfigError: not even one candidate fits.
    """
    least = math.inf
    for rounds in ladders(candidates, most_windows):
        least = total(rounds, seconds_of)
        if least <= ENOUGH * budget_seconds:
            return rounds
    minutes = (least / ENOUGH + 60) / 60
    raise ConfigError(
        "--minutes",
        required=f"about {minutes:.2g}, for one candidate and the model as it is on one window each",
        given=f"{max(0.0, budget_seconds) / 60:.2g} minutes left after loading",
        fix=f"--minutes {math.ceil(2 * minutes)}, or a smaller --target-window",
    )


def _full(candidates: int, windows: int) -> Round:
    """Everything that is measured, in proportion to the windows."""
    return Round(candidates, windows, trials=max(1, windows // 3), documents=max(1, windows // 4))


def _halving(candidates: int, windows: int) -> Rounds:
    """All on two lengths, a half on every length and pass keys, three on everything."""
    half = max(3, candidates // 2)
    screen = Round(candidates, max(1, windows // 4), all_lengths=False)
    middle = Round(half, max(1, windows // 2), trials=1)
    return (screen, middle, _full(3, windows)) if half > 4 else (screen, _full(half, windows))
