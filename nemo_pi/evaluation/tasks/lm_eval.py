"""The task `lm_eval`: any task of EleutherAI's evaluation harness, by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemo_pi.errors import BackendUnavailableError, ConfigError, DataError
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Cost, Measured, Plan, Progress, Task, TaskContext, TaskResult
from nemo_pi.evaluation.text_tables import MISSING, Table


@dataclass(frozen=True)
class LmEvalResult(TaskResult):
    """What the harness reports."""

    metrics: dict[str, dict[str, float | None]]
    """Task → metric → value; None where it is no finite number."""


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
        for name in ("num_fewshot", "limit"):
            value = getattr(self, name)
            if value is not None and value < (1 if name == "limit" else 0):
                raise ConfigError(name, required="≥ 1, or null", given=value, fix=f"{name}=null")

    def plan(self, context: TaskContext) -> Plan[Any]:
        """Look the tasks up.

        Raises:
            BackendUnavailableError: lm-eval is not installed. ConfigError: it knows no such task.
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
            "summary": f"lm-eval's tasks {', '.join(self.tasks)}, "
            + ("all questions" if self.limit is None else f"the first {self.limit} questions of each")
            + ", contexts cut on the left to the target window",
            "tasks": list(self.tasks),
            "num_fewshot": self.num_fewshot,
            "limit": self.limit,
        }
        # What a task asks is known when its data are there, which it loads itself.
        return Plan(manager, context, Cost(0, 0), protocol)

    def run(self, scorer: Scorer, plan: Plan[Any], progress: Progress) -> LmEvalResult:
        """Let the harness ask."""
        from lm_eval.evaluator import simple_evaluate

        from nemo_pi.evaluation.lm_eval_model import ScorerModel

        progress("lm_eval", 0, 0)
        found = simple_evaluate(
            model=ScorerModel(scorer, plan.context, lambda tokens: None),
            tasks=list(self.tasks),
            num_fewshot=self.num_fewshot,
            limit=self.limit,
            task_manager=plan.work,
            bootstrap_iters=0,
            log_samples=False,
        )
        results = {**found["results"], **found.get("groups", {})}
        return LmEvalResult(
            plan.protocol,
            {task: {name: _number(value) for name, value in own.items()} for task, own in results.items()},
        )

    @classmethod
    def table(cls, models: Sequence[Measured[LmEvalResult]]) -> Table:
        """Return every metric of every task, a column each."""
        columns = list(
            dict.fromkeys(
                (task, metric)
                for model in models
                if model.result
                for task, own in model.result.metrics.items()
                for metric, value in own.items()
                if value is not None and "stderr" not in metric
            )
        )
        lines = []
        for model in models:
            metrics = model.result.metrics if model.result else {}
            values = [metrics.get(task, {}).get(metric) for task, metric in columns]
            lines.append((model.model, *(MISSING if value is None else f"{value:.4g}" for value in values)))
        header = ("model", *(f"{task} {metric.removesuffix(',none')}" for task, metric in columns))
        return Table("lm-eval's tasks", header, tuple(lines))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
