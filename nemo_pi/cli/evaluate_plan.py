"""What examples/evaluate.py is about to do: every model and task checked and costed, nothing loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary, read_summary
from nemo_pi.cli.evaluate_config import EvaluateConfig
from nemo_pi.cli.evaluate_models import choose_backend
from nemo_pi.cli.flags import LAYOUT_FLAGS, end_ids, layout_of, tokenizer_folder
from nemo_pi.config.tasks import located
from nemo_pi.data.heldout import read_documents
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.evaluation.evaluate import PlannedTask
from nemo_pi.evaluation.gates import gates_of
from nemo_pi.evaluation.tasks.base import Task, TaskContext
from nemo_pi.parallel import launcher
from nemo_pi.parallel.layout import ParallelLayout


@dataclass(frozen=True)
class ModelPlan:
    """A model that is going to be measured; nothing of it is loaded yet."""

    name: str
    """What the report calls it."""
    folder: Path
    """The checkpoint."""
    summary: CheckpointSummary | None
    """What it says of itself; None where transformers computes."""
    layout: ParallelLayout | None
    """Over the ranks; None where transformers computes."""
    context: TaskContext
    """What its tasks share."""
    planned: list[PlannedTask]
    """Its tasks."""

    @property
    def num_tokens(self) -> int:
        """Tokens to read and generate."""
        return sum(item.plan.cost.tokens for item in self.planned)


def choose_windows(config: EvaluateConfig) -> tuple[int, int]:
    """Original and target window in tokens: as asked for, else of the model that reads furthest.

    Raises:
        ConfigError: not both were asked for, and a checkpoint does not say.
    """
    if config.original_window is not None and config.target_window is not None:
        return config.original_window, config.target_window
    try:
        extensions = [read_summary(model).extension for model in config.models]
    except NemoPiError as error:
        raise ConfigError(
            "original_window",
            required="a number, as target_window: a checkpoint does not say what windows it has",
            given=f"null ({error.field}: required {error.required}; given {error.given})",
            fix=f"{error.fix}; for a model that transformers alone computes, give original_window=... "
            "target_window=...",
        ) from error
    furthest = max(extensions, key=lambda extension: extension.target_window)
    return config.original_window or furthest.original_window, config.target_window or furthest.target_window


def plan_model(name: str, folder: Path, config: EvaluateConfig, windows: tuple[int, int]) -> ModelPlan:
    """Check and plan everything that a model's tasks will do.

    Raises:
        ConfigError, DataError, CheckpointError: whatever would keep them from finishing.
    """
    summary = layout = None
    if choose_backend(folder, config.backend, launcher.launched_world_size()) == "megatron":
        summary = read_summary(folder)
        layout = layout_of(config, summary.shape)
    else:
        _refuse_layout(folder, config)
    given = None if config.tokenizer is None else Path(config.tokenizer).expanduser()
    tokenizer = build_tokenizer("huggingface", str(tokenizer_folder(given, folder)))
    documents = (
        []
        if config.documents is None
        else read_documents(Path(config.documents).expanduser(), tokenizer, windows[1])
    )
    # Each replica is to have as many windows at a time as it would have alone.
    batch_tokens = config.batch_tokens * (layout.dp if layout else 1)
    add_bos = bool(tokenizer.start_ids) if config.add_bos is None else config.add_bos
    ends = end_ids(folder, tokenizer)
    context = TaskContext(tokenizer, documents, *windows, add_bos, batch_tokens, ends)
    planned = [_planned(task, context) for task in config.chosen_tasks()]
    return ModelPlan(name, folder, summary, layout, context, planned)


def _refuse_layout(folder: Path, config: EvaluateConfig) -> None:
    """A layout is not left aside: transformers computes on one rank."""
    sizes = {name: getattr(config, name) for name in LAYOUT_FLAGS}
    for name, size in sizes.items():
        if size != 1:
            raise ConfigError(
                name,
                required=f"1 where transformers computes {folder}, on one rank",
                given=size,
                fix=f"torchrun --nproc-per-node {math.prod(sizes.values())}, or leave it out",
            )


def _planned(task: Task[Any, Any], context: TaskContext) -> PlannedTask:
    try:
        return PlannedTask(task, task.plan(context))
    except NemoPiError as error:
        raise located(error, task) from error


def check_same_text(
    plans: Sequence[ModelPlan], bounds: Mapping[str, float], tasks: Sequence[Task[Any, Any]]
) -> None:
    """Refuse a gate between perplexities of different tokens.

    Raises:
        ConfigError: a model's tokenizer cuts the documents into other tokens than the first model's.
    """
    gates = gates_of(tasks)
    compares = [name for name in bounds if gates[name][1].compares]
    if compares and (others := _cut_otherwise(plans)):
        raise ConfigError(
            f"gate.{compares[0]}",
            required="models whose tokenizers cut the documents alike: perplexities of other tokens do not "
            "compare",
            given=f"{', '.join(others)} cut them otherwise than {plans[0].name}",
            fix=f"leave gate.{compares[0]} out, or compare with the model that {others[0]} was made from",
        )


def _cut_otherwise(plans: Sequence[ModelPlan]) -> list[str]:
    """Models whose tokenizers cut the documents into other tokens than the first one's."""
    return [plan.name for plan in plans if plan.context.documents != plans[0].context.documents]


def describe_costs(plans: Sequence[ModelPlan]) -> str:
    """Say what every task will cost and how it measures, before the first one starts."""
    lines = [
        f"{plan.name}: {item.task.name}: {item.plan.cost.describe()}"
        for plan in plans
        for item in plan.planned
    ]
    protocols = [
        f"{item.task.title}: {item.plan.protocol['summary']}" for plan in plans for item in plan.planned
    ]
    if others := _cut_otherwise(plans):
        text = ", ".join(others)
        protocols.append(f"{text}: other tokens than {plans[0].name}'s: perplexities do not compare")
    return "\n".join([*lines, *dict.fromkeys(protocols)])
