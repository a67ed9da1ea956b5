"""Contestants step in turns, all of them loaded and waiting, or one after the other where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import PathFinder

from benchmarks.harness import alternate
from benchmarks.training.job import Job
from benchmarks.training.session import OWN_PACKAGES, ContestantError, Session

NEEDS = {
    "nemo_pi": ("nemo", "megatron"),
    "engine": ("megatron",),
    "trainer": ("accelerate",),
    "litgpt": ("litgpt",),
    "liger": ("liger_kernel",),
}
"""Packages that not every machine with torch and transformers has, by contestant."""
# Steps that are measured of a contestant before the next one's turn, where they cannot all be loaded at once.
_STEPS_PER_TURN = 3


@dataclass
class Outcome:
    """What was measured of one contestant."""

    seconds: list[float] = field(default_factory=list)
    """Of each measured step, in the order of the rounds."""
    losses: list[float] = field(default_factory=list)
    """Of every step of its first process, warm-up included."""
    imports_mib: float = 0.0
    """Memory before the model was loaded."""
    peak_mib: float = 0.0
    """The most memory a step took, all of the process (on a GPU: torch's allocations)."""
    failure: str = ""
    """Why there are no or fewer measurements."""

    @property
    def work_mib(self) -> float:
        """Peak memory beyond what its imports take."""
        return self.peak_mib - self.imports_mib

    def drop(self, failure: str) -> None:
        """Forgets its times, and says why."""
        self.seconds, self.failure = [], failure

    def add(self, session: Session) -> None:
        """Takes over what a session has seen."""
        self.losses = self.losses or session.losses
        self.imports_mib = max(self.imports_mib, session.imports_mib)
        self.peak_mib = max(self.peak_mib, session.peak_mib)


def missing_package(contestant: str) -> str | None:
    """The first package that this contestant lacks, if it lacks one."""
    plain = contestant.removesuffix("-compiled")
    own = str(OWN_PACKAGES / plain)
    for package in NEEDS.get(plain, ()):
        if not (PathFinder.find_spec(package, [own]) or PathFinder.find_spec(package)):
            return package
    return None


def race(jobs: Mapping[str, Job], rounds: int, warmup: int, *, in_turn: bool = False) -> dict[str, Outcome]:
    """Measures `rounds` steps of each, after `warmup` unmeasured ones; whoever fails is left out.

    Args:
        jobs: what each trains, by the name it is reported under.
        rounds: measured steps; with in_turn, turns of three steps, each in a new process.
        warmup: steps of a process that do not count.
        in_turn: hold one contestant in memory at a time.
    """
    if in_turn:
        return _race_in_turn(jobs, rounds, warmup)
    outcomes = {name: Outcome() for name in jobs}
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(Session(job)) for name, job in jobs.items()}
        for name, session in sessions.items():
            _attempt(session.wait_until_ready, outcomes[name])
        steps = {
            name: partial(_attempt, session.step, outcomes[name])
            for name, session in sessions.items()
            if not outcomes[name].failure
        }
        for name, seconds in alternate(steps, rounds=rounds, warmup=warmup).items():
            outcomes[name].add(sessions[name])
            # Ratios pair rounds: a contestant that missed some has none.
            outcomes[name].seconds = [] if outcomes[name].failure else seconds
    return outcomes


def _attempt(work: Callable[[], object], outcome: Outcome) -> None:
    """Does the work, unless the contestant has failed before; keeps the reason if it fails now."""
    if not outcome.failure:
        try:
            work()
        except ContestantError as error:
            outcome.failure = str(error)


def _race_in_turn(jobs: Mapping[str, Job], rounds: int, warmup: int) -> dict[str, Outcome]:
    outcomes = {name: Outcome() for name in jobs}
    names = list(jobs)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            if not outcomes[name].failure:
                _take_turn(jobs[name], outcomes[name], warmup)
    return outcomes


def _take_turn(job: Job, outcome: Outcome, warmup: int) -> None:
    with Session(job) as session:
        try:
            session.wait_until_ready()
            seconds = [session.step() for _ in range(warmup + _STEPS_PER_TURN)]
            outcome.seconds += seconds[warmup:]
        except ContestantError as error:
            outcome.failure = str(error)
        outcome.add(session)
