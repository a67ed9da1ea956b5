"""What every evaluation task is: arguments, a plan that says its cost, a run, and how its results are shown.

A task is a frozen dataclass whose fields are its arguments (the keys under its name in conf/evaluate.yaml).
`plan` raises everything that is wrong with them, before any model is loaded; `run` computes. Adding one:
CONTRIBUTING.md, "Add a task".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.passkey_text import TextTokenizer
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.text_tables import Table
from nemo_pi.evaluation.verdicts import Verdict
from nemo_pi.evaluation.windows import doubling_lengths
from nemo_pi.rope.validation import did_you_mean
from nemo_pi.units import plural

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, tokens done so far, and tokens to do in all (read and generated)."""
W = TypeVar("W")
R = TypeVar("R", bound="TaskResult")
T = TypeVar("T")


class TaskTokenizer(TextTokenizer, Protocol):
    """What tasks need of a tokenizer; those that do not generate do without the last two."""

    @property
    def eod_id(self) -> int | None:
        """The token that ends a text, or None."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""


@dataclass(frozen=True)
class TaskContext:
    """What all tasks on one model have in common."""

    tokenizer: TaskTokenizer
    """The model's."""
    documents: Sequence[Sequence[int]]
    """Held-out documents as token ids of `tokenizer`; may be empty where no task reads them."""
    original_window: int
    """Tokens the base model was pretrained on."""
    target_window: int
    """Tokens to evaluate up to."""
    add_bos: bool = False
    """True begins every window and prompt with what begins a text for the tokenizer
    (nemo_pi.evaluation.passkey_text.start_ids)."""
    batch_tokens: int = 8192
    """Tokens per batch; a longer window is a batch of its own. Results do not depend on it but for
    rounding."""
    end_ids: tuple[int, ...] = ()
    """Tokens that end a text of the model's, as its generation_config.json says; for stop_ids of requests."""

    def __post_init__(self) -> None:
        doubling_lengths(self.original_window, self.target_window)  # raises on impossible windows
        if self.batch_tokens < 1:
            raise ConfigError("batch_tokens", required="≥ 1", given=self.batch_tokens, fix="give at least 1")

    def check_lengths(self, field: str, lengths: Iterable[int]) -> None:
        """Refuse lengths below 2 tokens or beyond the target window.

        Raises:
            ConfigError: names `field`.
        """
        for length in lengths:
            if not 2 <= length <= self.target_window:
                raise ConfigError(
                    field,
                    required=f"from 2 tokens to the target window, {self.target_window}",
                    given=length,
                    fix="leave it out or raise target_window",
                )


@dataclass(frozen=True)
class Cost:
    """What a task asks of the model."""

    batches: int
    """Calls of the scorer."""
    tokens_read: int
    """Tokens of all windows and prompts."""
    tokens_generated: int = 0
    """At most so many new tokens."""

    @property
    def tokens(self) -> int:
        """What the progress bar counts."""
        return self.tokens_read + self.tokens_generated

    def describe(self) -> str:
        """Say it in words."""
        written = f", up to {self.tokens_generated:,} generated" if self.tokens_generated else ""
        return f"{plural(self.tokens_read, 'token')} read{written}, {plural(self.batches, 'batch')}"


@dataclass(frozen=True)
class Plan(Generic[W]):
    """What a task is about to do, checked, before anything is computed."""

    work: W
    """Whatever the task's own `run` needs."""
    context: TaskContext
    """What it was planned for."""
    cost: Cost
    """What it will take."""
    protocol: dict[str, Any]
    """How it measures: "name", "summary" in words, and every number that shapes the result. JSON types."""


@dataclass(frozen=True)
class TaskResult:
    """One model's result of one task; with fields of plain JSON types it needs no methods of its own."""

    protocol: dict[str, Any]
    """`Plan.protocol`, kept so that no number stands without it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types (no infinity, no NaN)."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls: type[R], content: dict[str, Any]) -> R:
        """Read what `to_json` returned; else KeyError, TypeError, ValueError or AttributeError."""
        return cls(**content)

    def scalars(self) -> dict[str, float]:
        """Return numbers to draw against training steps, by name: those of `to_json` outside of lists."""
        content = {name: value for name, value in self.to_json().items() if name != "protocol"}
        return dict(_numbers(content))


def _numbers(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{path}{name}", float(value)


@dataclass(frozen=True)
class Measured(Generic[R]):
    """One model in a task's table and plot: models keep their place, and so their colour, in all of them."""

    model: str
    """What the report calls it."""
    original_window: int
    """Tokens it was pretrained on."""
    target_window: int
    """Tokens it was evaluated up to."""
    result: R | None
    """None where this task was not run on it."""


@dataclass(frozen=True)
class Gate:
    """A number that a model must reach, or stay below, for the command to succeed (`gate` in the YAML)."""

    value: Callable[[Sequence[Measured[Any]], Measured[Any]], float | None]
    """Of a model among all of the report; None where it was not measured."""
    at_most: bool
    """Whether the bound is an upper one."""
    of: str
    """What the number is, in words."""
    compares: bool = False
    """Whether it is one model's against the first one's, and so means nothing of a model alone."""
    detail: Callable[[Any], str] | None = None
    """Of a result: what is to be known of the number, as it goes on from it: "by the mean of …"."""
    reach: Callable[[Any, int], float] | None = None
    """Of a task with its arguments, and a target window in tokens: the highest number that can come of it, so
    that higher lower bounds are refused; None: there is none."""
    usual: float = 1.0
    """A bound of its kind, which messages suggest where `reach` tells none."""

    def suggested(self, task: Any, target_window: int) -> float:
        """A bound that a task with these arguments can keep."""
        return self.usual if self.reach is None else self.reach(task, target_window)


class Task(ABC, Generic[W, R]):
    """Base of all tasks; subclasses are frozen dataclasses and set the three class variables."""

    name: ClassVar[str]
    """Its key in YAML, results.json and file names."""
    title: ClassVar[str]
    """What the report calls it."""
    result_type: ClassVar[type[Any]]
    """Its TaskResult, for reading results back."""
    gates: ClassVar[Mapping[str, Gate]] = {}
    """What `gate` may ask of its results, by name; names are unique over all tasks."""

    @abstractmethod
    def plan(self, context: TaskContext) -> Plan[W]:
        """Check arguments against the context and return what will be done. No model is needed.

        Raises:
            ConfigError, DataError: whatever would keep the run from finishing.
        """

    @abstractmethod
    def run(self, scorer: Scorer, plan: Plan[W], progress: Progress) -> R:
        """Measure. Every rank calls it alike and gets the same result.

        Args:
            scorer: the model.
            plan: from `plan`.
            progress: called with (what, tokens done, plan.cost.tokens), first of all and after each batch.
        """

    @classmethod
    @abstractmethod
    def table(cls, models: Sequence[Measured[R]]) -> Table:
        """Return the models side by side, a line each; at least one has a result."""

    @classmethod
    def plot(cls, models: Sequence[Measured[R]], path: Path) -> Path | None:
        """Draw the models side by side into a PNG and return its path; None if there is nothing to draw."""
        return None

    @classmethod
    def verdicts(cls, models: Sequence[Measured[R]]) -> Sequence[Verdict]:
        """Return the questions that the results answer, each with a finding for each model; at least one has
        a result. None: the report shows table and plot under the task's title."""
        return ()


def longest_length(task: Any, target_window: int) -> int:
    """The longest length that a task with an argument `lengths` tries; without any, the target window."""
    return max(task.lengths or (target_window,))


def require_some(task: Any, **examples: str) -> None:
    """Refuse an empty list in an argument of `task`; by name, what could stand there.

    Raises:
        ConfigError: names the argument.
    """
    for name, example in examples.items():
        if getattr(task, name) == ():
            raise ConfigError(name, required="at least one", given="[]", fix=f"give e.g. {example}")


_MOST = 100_000
"""Lengths, and documents of each: hundreds of times what the papers tried."""


def require_counts(task: Any, *names: str) -> None:
    """Refuse numbers of things in arguments of `task` that are below 1, or beyond any use.

    Raises:
        ConfigError: names the argument.
    """
    for name in names:
        value = getattr(task, name)
        if value < 1:
            raise ConfigError(name, required="≥ 1", given=value, fix="give at least 1")
        if value > _MOST:
            raise ConfigError(name, required=f"at most {_MOST:,}", given=value, fix="give e.g. 10")


def at_each_length(what: str, more: str = "") -> str:
    """Say how much is tried, as protocols do: "5 trials at each length and depth, lengths include …".

    Args:
        what: "5 trials".
        more: " and depth", where lengths are not all that is tried.
    """
    return f"{what} at each length{more}, lengths include the answer"


PI = "pi"
"""The protocol of Position Interpolation (arXiv 2306.15595), every task's own."""


def require_protocol(task: Any, names: Sequence[str], **only: Any) -> None:
    """Refuse a protocol that is none of `names`, and arguments that the chosen one does not know.

    Args:
        task: whose argument `protocol` it is.
        names: of the protocols.
        only: arguments that have to stay at these defaults under the chosen one.

    Raises:
        ConfigError: names the argument.
    """
    if task.protocol not in names:
        raise ConfigError(
            "protocol",
            required=f"one of {', '.join(names)}",
            given=task.protocol,
            fix=did_you_mean(task.protocol, names),
        )
    for name, default in only.items():
        if getattr(task, name) != default:
            raise ConfigError(
                name,
                required=f"its default under protocol={task.protocol}, which has no such choice",
                given=getattr(task, name),
                fix=f"leave {name} out, or choose another protocol",
            )


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`, the last perhaps shorter (itertools.batched is Python 3.12's)."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
