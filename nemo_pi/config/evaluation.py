"""What a run measures while it trains (`model.evaluation`), checked; evaluation_plan.py plans it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_pi.config.sections import EvaluationConfig
from nemo_pi.errors import ConfigError

if TYPE_CHECKING:
    from nemo_pi.evaluation.tasks.base import Task

SECTION = "model.evaluation"


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and when."""

    every: int
    """Optimizer steps between measurements; the last step is one of them whatever its number."""
    tasks: tuple[Task[Any, Any], ...]
    """With their arguments; at least one."""
    documents: Path | None
    """JSON lines; None: none."""
    stop_at: Mapping[str, float]
    """Name of a gate → the value at which, once all are reached, training ends."""
    add_bos: bool | None
    """Whether windows and prompts begin with what begins a text; None: as the tokenizer does."""
    batch_tokens: int
    """Tokens per batch of one replica."""

    def is_due(self, step: int, max_steps: int) -> bool:
        """Whether it is measured behind this step."""
        return step > 0 and (step % self.every == 0 or step == max_steps)

    def times(self, max_steps: int) -> int:
        """How often a run of so many steps measures."""
        return -(-max_steps // self.every)


def resolve_evaluation(given: EvaluationConfig, target_window: int) -> EvaluationSettings | None:
    """The section's values, checked; None where it names no task.

    Args:
        given: the section.
        target_window: of the run, in tokens.

    Raises:
        ConfigError: an unknown task, argument or gate, or a value that cannot be.
    """
    tasks = dict.fromkeys(given.tasks) if isinstance(given.tasks, list) else given.tasks
    if not tasks:
        for name in ("documents", "stop_at"):
            if getattr(given, name):
                raise ConfigError(
                    f"{SECTION}.tasks",
                    required=f"at least one task, as {SECTION}.{name} is given",
                    given="none",
                    fix=f"{SECTION}.tasks=[passkey], or leave {name} out",
                )
        return None
    for name in ("every", "batch_tokens"):
        if getattr(given, name) < 1:
            raise ConfigError(
                f"{SECTION}.{name}", required="≥ 1", given=getattr(given, name), fix="give e.g. 200"
            )
    # Imported here: tasks import what they measure with, and most runs name none.
    from nemo_pi.config.tasks import chosen_tasks

    chosen = tuple(chosen_tasks(tasks, f"{SECTION}.tasks"))
    if not chosen:
        raise ConfigError(
            f"{SECTION}.tasks", required="at least one task", given="none", fix="leave the section out"
        )
    stop_at = dict(given.stop_at or {})
    _check_goal(stop_at, chosen, target_window)
    documents = None if given.documents is None else Path(given.documents).expanduser()
    return EvaluationSettings(given.every, chosen, documents, stop_at, given.add_bos, given.batch_tokens)


def check_goal_in_reach(settings: EvaluationSettings | None, target_window: int) -> None:
    """Refuse a goal that no measurement can reach: such a run would never end early.

    Args:
        settings: of a run, or of a stage of one.
        target_window: of the run's stage that reads furthest, in tokens: the goal may be a later stage's.

    Raises:
        ConfigError: a bound above the longest length that is tried.
    """
    if settings is not None:
        from nemo_pi.evaluation.gates import check_reach

        check_reach(settings.stop_at, settings.tasks, target_window, f"{SECTION}.stop_at", f"{SECTION}.tasks")


def _check_goal(stop_at: Mapping[str, Any], tasks: tuple[Task[Any, Any], ...], target_window: int) -> None:
    from nemo_pi.evaluation.gates import check_known, check_numbers, gates_of

    check_known(stop_at, tasks, f"{SECTION}.stop_at", f"{SECTION}.tasks")
    for name in stop_at:
        if gates_of(tasks)[name][1].compares:
            raise ConfigError(
                f"{SECTION}.stop_at.{name}",
                required="a number of this model's own: a run has no other one to be compared with",
                given=f"{name}, which is divided by another model's",
                fix="leave it out, and give it as gate to examples/evaluate.py",
            )
    check_numbers(stop_at, tasks, target_window, f"{SECTION}.stop_at")
