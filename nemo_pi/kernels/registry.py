"""How one of several backends is chosen for a job: the same way for all jobs.

A request by name gets that backend or an error with the reason, never another one. `auto` chooses among
those that can do the job: on CPUs the one that was measured to be the fastest here (kernels/race.py), else
the first as they are listed. Which one it is, and why, comes along for the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from nemo_pi.errors import BackendUnavailableError, ConfigError
from nemo_pi.kernels.adapters import is_installed
from nemo_pi.kernels.needs import Capability, Needs

_log = logging.getLogger(__name__)
AUTO = "auto"


class Asks(Protocol):
    """What a model needs of a job."""

    def describe(self) -> str:
        """In words, for messages."""


class Candidate(Protocol):
    """What can be chosen."""

    @property
    def name(self) -> str:
        """As written in YAML."""

    def unusable(self, needs: Any) -> str | None:
        """Why it cannot be used here for `needs`, or None if it can."""


C = TypeVar("C", bound=Candidate)
Measured = Mapping[str, float]
"""Seconds of each candidate that ran and computed the right thing."""


@dataclass(frozen=True)
class Backend:
    """A backend that nemo_pi knows by name."""

    name: str
    """As written in YAML."""
    job: str
    """attention, norm, activation, softmax or matmul."""
    capability: Capability
    """What it can do."""
    load: Callable[[], Any]
    """Imports and returns what does it; kernels/backends.py says of what kind that is for each job."""
    package: str | None = None
    """Module that must be installed for it; looked up, not imported."""
    obstacle: Callable[[], str | None] | None = None
    """Says why it cannot run in this process, if so."""
    named_only: bool = False
    """Whether `auto` never takes it: it computes another function than the others."""

    def unusable(self, needs: Needs) -> str | None:
        """Why it cannot be used here for `needs`, or None if it can."""
        return self.capability.lacks(needs) or self.obstacle_here()

    def obstacle_here(self) -> str | None:
        """Why it cannot run in this process whatever is asked of it, or None if it can."""
        if self.package is not None and not is_installed(self.package):
            return f"the module {self.package} is not installed"
        return None if self.obstacle is None else self.obstacle()


@dataclass(frozen=True)
class Choice(Generic[C]):
    """A chosen backend, and how it came to be."""

    backend: C
    asked: str
    """The request: auto, or a name."""
    said: str
    """What was asked for, what it got, for what and why: one sentence."""
    how: str = ""
    """In short how it was chosen, with the figures of a race; nothing where it was asked for by name."""

    @property
    def name(self) -> str:
        """As written in YAML."""
        return self.backend.name

    def describe(self) -> str:
        """`native (auto: 3.1 ms, rows 5.0 ms, sdpa 6.2 ms)`, as the plan shows it."""
        return f"{self.name} ({self.how})" if self.how else self.name


def select(
    where: str,
    request: str,
    needs: Asks,
    candidates: Sequence[C],
    *,
    measure: Callable[[Sequence[C]], Measured] | None = None,
    kind: str = "backend",
    elsewhere: Mapping[str, str] | None = None,
) -> Choice[C]:
    """The backend that a request gets.

    Args:
        where: key of the YAML, for messages.
        request: `auto`, or the name of one of `candidates`.
        needs: what the model asks of it.
        candidates: in the order in which `auto` prefers them where nothing is measured.
        measure: times several candidates that can do the job; None where none are to be timed.
        kind: what messages call a candidate.
        elsewhere: {name: why it cannot run} on other ranks, which shall use the same.

    Raises:
        ConfigError: for a name that is not known.
        BackendUnavailableError: if the one asked for by name cannot do the job here, or none can, with the
            reasons.
    """
    reasons = {candidate.name: candidate.unusable(needs) for candidate in candidates}
    for name, obstacle in (elsewhere or {}).items():
        # Where packages differ, other ranks know names that this one does not: they cannot be had here.
        if name in reasons and reasons[name] is None:
            reasons[name] = obstacle
    usable = [candidate for candidate in candidates if reasons[candidate.name] is None]
    if request == AUTO:
        return choose_from(where, AUTO, needs, usable, reasons, measure=measure, kind=kind)
    if request not in reasons:
        required = "auto or one of " + ", ".join(reasons)
        fix = "write auto" + _or_one_of(usable)
        raise ConfigError(where, required=required, given=repr(request), fix=fix)
    reason = reasons[request]
    if reason is not None:
        fix = "write auto" + _or_one_of(usable) if usable else "no other can run here: change what it refuses"
        required = f"a {kind} that can run here, for {needs.describe()}"
        given = f"{request}, which cannot: {reason}"
        raise BackendUnavailableError(where, required=required, given=given, fix=fix)
    said = f"{where}: {request}, as asked for, for {needs.describe()}"
    return Choice(next(candidate for candidate in usable if candidate.name == request), request, said)


def choose_from(
    where: str,
    asked: str,
    needs: Asks,
    usable: Sequence[C],
    reasons: Mapping[str, str | None],
    *,
    measure: Callable[[Sequence[C]], Measured] | None = None,
    kind: str = "backend",
    otherwise: str = "see the reasons given",
) -> Choice[C]:
    """The fastest of `usable` where that is measured, else the first; `reasons` tells of the others.

    Raises:
        BackendUnavailableError: none is usable; `otherwise` says what helps.
    """
    if not usable:
        given = "none can: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        required = f"a {kind} that can run here, for {needs.describe()}"
        raise BackendUnavailableError(where, required=required, given=given, fix=otherwise)
    measured = measure(usable) if measure is not None and len(usable) > 1 else {}
    chosen = _fastest(usable, measured) if measured else usable[0]
    if measured:
        because = "measured here: " + ", ".join(
            f"{candidate.name} {_duration(measured[candidate.name])}"
            if candidate.name in measured
            else f"{candidate.name} failed"
            for candidate in usable
        )
    else:
        names = list(reasons)
        passed_over = names[: names.index(chosen.name)]
        because = "; ".join(f"{name}: {reasons[name]}" for name in passed_over) or "the fastest one known"
    said = f"{where}: {asked} chose {chosen.name} for {needs.describe()} ({because})"
    return Choice(chosen, asked, said, _figures(chosen.name, measured))


def _or_one_of(usable: Sequence[Candidate]) -> str:
    return f", or one that can run here ({', '.join(one.name for one in usable)})" if usable else ""


def _figures(chosen: str, measured: Measured) -> str:
    """`auto: 3.1 ms, rows 5.0 ms, sdpa 6.2 ms`."""
    if chosen not in measured:
        return AUTO
    ranked = sorted(measured.items(), key=lambda item: item[1])
    others = [f"{name} {_duration(seconds)}" for name, seconds in ranked if name != chosen]
    return f"{AUTO}: {', '.join([_duration(measured[chosen]), *others])}"


# By how much a later candidate must beat an earlier one: timings of a few milliseconds scatter by less.
_MARGIN = 0.95


def _fastest(usable: Sequence[C], measured: Measured) -> C:
    ran = [candidate for candidate in usable if candidate.name in measured]
    best = ran[0]
    for candidate in ran[1:]:
        if measured[candidate.name] < _MARGIN * measured[best.name]:
            best = candidate
    return best


@cache
def log_once(message: str, level: int = logging.INFO) -> None:
    """A model is planned, checked and built; one line is enough."""
    _log.log(level, message)


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
