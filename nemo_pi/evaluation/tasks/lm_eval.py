"""The task `lm_eval`: any task of EleutherAI's evaluation harness, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemo_pi.errors import BackendUnavailableError, ConfigError, DataError
from nemo_pi.evaluation.bar_plots import plot_bars
from nemo_pi.evaluation.lm_eval_scores import (
    LmEvalResult,
    kept_scores,
    read_results,
    score_charts,
    scores_of,
)
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Measured, Plan, Progress, Task, TaskContext
from nemo_pi.evaluation.text_tables import MISSING, Table
from nemo_pi.evaluation.verdicts import Verdict


@dataclass(frozen=True)
class LmEval(Task[Any, LmEvalResult]):
    """Tasks of lm-eval on our scorer: loglikelihood, loglikelihood_rolling and generate_until."""

    name = "lm_eval"
    title = "lm-eval"
    result_type = LmEvalResult

    tasks: tuple[str, ...] = ()
    """Names of its tasks, groups or tags; those that bring no data download it."""
    num_fewshot: int | None = None
    """Solved examples before each question; None: as the task says."""
    limit: int | None = None
    """Questions of each task at most; None: all."""
    include_path: str | None = None
    """A folder of YAML tasks of your own; a YAML there may name Python files of the folder, which run."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError(
                "tasks",
                required="at least one task of lm-eval",
                given="none",
                fix="tasks.lm_eval.tasks=[lambada]",
            )
        for name, least in (("num_fewshot", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(name, required=f"≥ {least}, or null", given=value, fix=f"{name}=null")

    def plan(self, context: TaskContext) -> Plan[Any]:
        """Load the tasks, and count what they ask.

        Raises:
            BackendUnavailableError: lm-eval is not installed. ConfigError: it knows no such task.
            DataError: a task cannot be loaded, or there is no include_path.
        """
        if find_spec("lm_eval") is None:
            raise BackendUnavailableError(
                "tasks.lm_eval",
                required="the package lm-eval",
                given="none",
                fix="pip install 'lm-eval[hf]', or tasks.lm_eval=false",
            )
        from lm_eval.tasks import TaskManager

        if self.include_path is not None and not Path(self.include_path).expanduser().is_dir():
            raise DataError(
                "include_path",
                required="a folder",
                given=self.include_path,
                fix="correct tasks.lm_eval.include_path",
            )
        folder = None if self.include_path is None else str(Path(self.include_path).expanduser())
        manager = TaskManager(include_path=folder)
        unknown = [name for name in self.tasks if not manager.match_tasks([name])]
        if unknown:
            raise ConfigError(
                "tasks",
                required="names that `lm-eval ls tasks` lists",
                given=", ".join(unknown),
                fix="correct them, or give tasks.lm_eval.include_path",
            )
        protocol = {
            "name": "lm-eval",
            "summary": f"tasks {', '.join(self.tasks)}, "
            + ("all questions" if self.limit is None else f"the first {self.limit} questions of each")
            + ", contexts cut on the left to the target window",
            "tasks": list(self.tasks),
            "num_fewshot": self.num_fewshot,
            "limit": self.limit,
        }
        from nemo_pi.evaluation.lm_eval_harness import Harness

        harness = Harness(manager, self.tasks, self.num_fewshot, self.limit)
        return Plan(harness, context, harness.count(context), protocol)

    def run(self, scorer: Scorer, plan: Plan[Any], progress: Progress) -> LmEvalResult:
        """Let the harness ask."""
        done = 0

        def count(tokens: int) -> None:
            nonlocal done
            done += tokens
            progress("lm-eval", done, plan.cost.tokens)

        progress("lm-eval", done, plan.cost.tokens)
        return read_results(plan.work.ask(scorer, plan.context, count), plan.protocol)

    @classmethod
    def table(cls, models: Sequence[Measured[LmEvalResult]]) -> Table:
        """Return every metric of every task, a column each."""
        found = [{} if m.result is None else {s.name: s.value for s in scores_of(m.result)} for m in models]
        columns = list(dict.fromkeys(name for values in found for name in values))
        lines = tuple(
            (m.model, *(f"{values[name]:.4g}" if name in values else MISSING for name in columns))
            for m, values in zip(models, found, strict=True)
        )
        return Table("lm-eval's tasks", ("model", *columns), lines)

    @classmethod
    def plot(cls, models: Sequence[Measured[LmEvalResult]], path: Path) -> Path | None:
        """Draw the scores with their errors, in a panel for each scale."""
        return plot_bars(score_charts(models), path, title="Scores of lm-eval's tasks")

    @classmethod
    def verdicts(cls, models: Sequence[Measured[LmEvalResult]]) -> Sequence[Verdict]:
        """Say whether each model keeps the first one's scores, as far as their errors are known."""
        return (kept_scores(models),)
