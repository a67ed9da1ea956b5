"""Candidates measured one after the other, in rounds, within a time; what is measured is never lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nemo_pi.advice.proposals import Proposal
from nemo_pi.advice.ranking import Standing, rank
from nemo_pi.advice.rounds import Round, Rounds
from nemo_pi.advice.speed import Clock, Speed, calls_of
from nemo_pi.advice.store import Store, key_of
from nemo_pi.evaluation.evaluate import PlannedTask, run_tasks
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.tasks.base import Progress, TaskContext
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.units import plural

AS_IT_IS = "as it is"
"""Label of the checkpoint with the positions it has."""
MOST_OF_A_METHOD = 2
"""Candidates of one method that go on as long as others wait: arguments matter less than methods."""


@dataclass
class Outcome:
    """What came of all rounds."""

    rounds: Rounds
    """As planned."""
    base: list[Standing] = field(default_factory=list)
    """The checkpoint as it is, one for each round that was begun."""
    standings: list[Standing] = field(default_factory=list)
    """Each candidate in the last round that it finished, the best first."""
    left_out: list[str] = field(default_factory=list)
    """What was not measured, and why."""
    unreached: list[str] = field(default_factory=list)
    """Labels of candidates that would have gone on in the round that was cut: nothing has dropped them."""
    stopped: bool = False
    """Whether somebody stopped it."""

    @property
    def last_round(self) -> int:
        """Number of the last round that a candidate finished; -1 where none has."""
        return max((standing.round for standing in self.standings), default=-1)


class Session:
    """Measures candidates on one model in memory.

    Args:
        scorer: the model; its positions are replaced for each candidate.
        base: its positions as they are.
        context: documents and windows.
        store: where results go, and where those of an earlier start are.
        speed: of the model.
        clock: what time it is, in seconds.
    """

    def __init__(
        self,
        scorer: HuggingFaceScorer,
        base: ContextExtension,
        context: TaskContext,
        store: Store,
        speed: Speed,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._scorer, self._base, self._context = scorer, base, context
        self._store, self._speed, self._clock = store, speed, clock
        self._slowness = 1.0
        # Of rounds' sizes: planning tokenizes long texts.
        self._calls: dict[str, list[tuple[int, int]]] = {}
        self._planned: dict[str, list[PlannedTask]] = {}

    def seconds_of(self, each: Round) -> float:
        """Of one candidate in a round, at the speed that was measured."""
        return self._speed.seconds(self._calls_of(each))

    def tokens_of(self, each: Round) -> int:
        """That one candidate reads in a round."""
        return sum(rows * length for rows, length in self._calls_of(each))

    def _planned_of(self, each: Round) -> list[PlannedTask]:
        if key_of(each) not in self._planned:
            self._planned[key_of(each)] = each.planned(self._context)
        return self._planned[key_of(each)]

    def _calls_of(self, each: Round) -> list[tuple[int, int]]:
        if key_of(each) not in self._calls:
            self._calls[key_of(each)] = calls_of(each.tasks(self._context), self._context)
        return self._calls[key_of(each)]

    def left(self, rounds: Rounds, of: Callable[[Round], float]) -> float:
        """What all rounds take by what one candidate takes, less what an earlier start has measured."""

        def kept(each: Round) -> int:
            return sum(key_of(each) in by_round for by_round in self._store.results.values())

        return sum(of(each) * max(0, each.candidates + 1 - kept(each)) for each in rounds)

    def run(
        self, proposals: Sequence[Proposal], rounds: Rounds, deadline: float, progress: Progress | None = None
    ) -> Outcome:
        """Every round, or as many candidates of it as the time allows.

        Args:
            proposals: in the order in which they are tried first.
            rounds: what each is measured on.
            deadline: on the clock; nothing is begun that would end behind it.
            progress: called with (what, tokens done of this candidate and round, tokens of it).
        """
        outcome = Outcome(rounds)
        remaining = list(proposals)
        for number, each in enumerate(rounds):
            chosen, dropped = remaining[: each.candidates], remaining[each.candidates :]
            # Plain positions are measured in any case.
            dropped = [proposal for proposal in dropped if proposal.extension != self._base]
            if dropped and not number:
                names = "; ".join(proposal.label for proposal in dropped)
                outcome.left_out.append(f"not tried, for want of time: {names}")
            if not self._round(number, each, chosen, deadline, outcome, progress):
                self._note_the_rest(number, chosen, outcome)
                break
            remaining = _mixed(chosen, outcome.standings)
        outcome.standings = rank(outcome.standings)
        return outcome

    def _note_the_rest(self, number: int, chosen: Sequence[Proposal], outcome: Outcome) -> None:
        """Who was not reached in the round that was cut, and what later rounds would have measured."""
        reached = {standing.label for standing in outcome.standings if standing.round == number}
        outcome.unreached = [proposal.label for proposal in chosen if proposal.label not in reached]
        why = "stopped" if outcome.stopped else "for want of time"
        for later in range(number + 1, len(outcome.rounds)):
            what = _what(outcome.rounds[later], self._context)
            outcome.left_out.append(f"round {later + 1}, {why}: {what}")

    def _round(
        self,
        number: int,
        each: Round,
        chosen: Sequence[Proposal],
        deadline: float,
        outcome: Outcome,
        progress: Progress | None,
    ) -> bool:
        """One round; whether the next may begin."""
        # Plain positions at any target are those of a model as it is, which is measured in any case.
        own = next((proposal for proposal in chosen if proposal.extension == self._base), None)
        extensions = {AS_IT_IS: self._base, **{p.label: p.extension for p in chosen if p is not own}}
        seconds = self.seconds_of(each)
        for done, (label, extension) in enumerate(extensions.items()):
            kept = self._store.result(label, each)
            if kept is None and self._clock() + seconds * self._slowness > deadline:
                names = "; ".join(list(extensions)[done:])
                outcome.left_out.append(f"round {number + 1}, for want of time: {names}")
                return False
            try:
                result = kept or self._measure(label, extension, each, seconds, progress)
            except KeyboardInterrupt:
                outcome.left_out.append(f"round {number + 1}, stopped: {'; '.join(list(extensions)[done:])}")
                outcome.stopped = True
                return False
            standing = Standing(label, number, result)
            if label == AS_IT_IS:
                outcome.base.append(standing)
                if own is None:
                    continue
                standing = Standing(own.label, number, result)
            outcome.standings = [old for old in outcome.standings if old.label != standing.label]
            outcome.standings.append(standing)
        return True

    def _measure(
        self,
        label: str,
        extension: ContextExtension,
        each: Round,
        seconds: float,
        progress: Progress | None,
    ) -> ModelResults:
        self._scorer.read_as(extension)
        started = self._clock()
        found = run_tasks(
            self._scorer,
            self._planned_of(each),
            self._context,
            name=label,
            progress=progress and _named(label, progress),
        )
        # The probe was short; from here on, what a candidate really took says how long the next will take.
        self._slowness = max(0.2, (self._clock() - started) / max(seconds, 1e-9))
        self._store.keep(label, each, found)
        return found


def _mixed(chosen: Sequence[Proposal], standings: Sequence[Standing]) -> list[Proposal]:
    """Who goes on first: the best, but further ones of a method behind MOST_OF_A_METHOD after all others."""
    by_label = {proposal.label: proposal for proposal in chosen}
    ordered = [by_label[each.label] for each in rank(standings) if each.label in by_label]
    seen: Counter[str] = Counter()
    is_late = {}
    for proposal in ordered:
        seen[proposal.method] += 1
        is_late[proposal.label] = seen[proposal.method] > MOST_OF_A_METHOD
    return sorted(ordered, key=lambda proposal: is_late[proposal.label])


def _named(label: str, progress: Progress) -> Callable[[str, int, int], None]:
    return lambda what, done, total: progress(f"{label}: {what}", done, total)


def describe_rounds(session: Session, rounds: Rounds, context: TaskContext) -> list[str]:
    """What is going to be measured, a line a round, with its tokens."""
    lines = []
    for number, each in enumerate(rounds, start=1):
        tokens = session.tokens_of(each) * (each.candidates + 1)
        lines.append(f"round {number}: {_what(each, context)}; {plural(tokens, 'token')}")
    return lines


def _what(each: Round, context: TaskContext) -> str:
    who = f"{plural(each.candidates, 'candidate')} and the model as it is"
    return f"{who}: {each.describe(context)}"
