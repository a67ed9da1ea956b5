"""The task `lm_eval`: any task of EleutherAI's evaluation harness, by its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemo_pi.errors import BackendUnavailableError, ConfigError, DataError
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.tasks.base import Cost, Measured, Plan, Progress, Task, TaskContext, TaskResult
from nemo_pi.evaluation.text_tables import MISSING, Table
from nemo_pi.evaluation.verdicts import Finding, Verdict
from nemo_pi.units import plural


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
            "summary": f"tasks {', '.join(self.tasks)}, "
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

    @classmethod
    def verdicts(cls, models: Sequence[Measured[LmEvalResult]]) -> Sequence[Verdict]:
        """Say whether each model keeps the first one's scores, as far as their errors are known."""
        rule = (
            "Scores that come with a standard error, against the first model's. Kept: none is worse by "
            "more than twice the standard error of the difference. Lost: one is. Scores without an error "
            "decide nothing."
        )
        found = tuple(
            None if m.result is None else _finding(i, m.result, models[0].result)
            for i, m in enumerate(models)
        )
        words = ("kept", "partly kept", "lost")
        return (Verdict("Are the scores of other benchmarks kept?", rule, found, words=words),)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "loss", "brier", "ter")


def _finding(index: int, own: LmEvalResult, first: LmEvalResult | None) -> Finding:
    scores = plural(sum(1 for _ in _scores(own)), "score")
    if index == 0:
        return Finding("reference", f"{scores}; what the others are compared with", scores)
    before = {} if first is None else {key: (value, error) for key, value, error in _scores(first)}
    compared, lost = 0, []
    for key, value, error in _scores(own):
        theirs, its_error = before.get(key, (math.nan, None))
        if error is None or its_error is None:
            continue
        compared += 1
        less = value - theirs if key[1].startswith(_LOWER_IS_BETTER) else theirs - value
        if not less <= 2 * math.hypot(error, its_error):
            lost.append(f"{key[0]} {key[1].partition(',')[0]} {value:.4g} for {theirs:.4g}")
    if not compared:
        return Finding("unknown", f"{scores}, none with a standard error beside the first model's", scores)
    if lost:
        return Finding(
            "no", f"worse than the first model: {'; '.join(lost)}", f"{len(lost)} of {compared} lost"
        )
    return Finding(
        "yes", f"none of {plural(compared, 'score')} is worse beyond its error", f"{compared} kept"
    )


def _scores(result: LmEvalResult) -> Iterator[tuple[tuple[str, str], float, float | None]]:
    """((task, metric), value, standard error) of every score."""
    for task, metrics in result.metrics.items():
        for metric, value in metrics.items():
            if value is not None and "stderr" not in metric:
                name, comma, kind = metric.partition(",")
                yield (task, metric), value, metrics.get(f"{name}_stderr{comma}{kind}")
