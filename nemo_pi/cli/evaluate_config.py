"""What conf/evaluate.yaml may say, checked: models, tasks with their arguments, windows, results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nemo_pi.config.merge import UnknownKey, refuse_unknown, unknown_keys
from nemo_pi.config.tasks import chosen_tasks, known_arguments
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.tasks.base import Task
from nemo_pi.evaluation.tasks.registry import task_names
from nemo_pi.rope.validation import MOST_TOKENS

BACKENDS = ("auto", "transformers", "megatron")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class EvaluateConfig:
    """The keys of conf/evaluate.yaml, checked; they are explained there."""

    models: list[str]
    """Checkpoints of either kind."""
    documents: str | None = None
    """JSON lines; None: none."""
    original_window: int | None = None
    """Tokens; None: the checkpoint's."""
    target_window: int | None = None
    """Tokens; None: the checkpoint's."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """Task name → its arguments, or false."""
    gate: dict[str, float] = field(default_factory=dict)
    """What every model after the first must reach (gates of the tasks), else the command fails."""
    add_bos: bool | None = None
    """Whether windows and prompts begin with the beginning-of-text token; None: as the tokenizer adds it."""
    batch_tokens: int = 8192
    """Tokens per batch of one replica."""
    results: str = "results/evaluation"
    """Folder to write."""
    backend: str = "auto"
    """One of BACKENDS."""
    dtype: str = "float32"
    """One of DTYPES."""
    tokenizer: str | None = None
    """Folder; None: the checkpoint's."""
    tensor_model_parallel_size: int = 1
    """Ranks that share each layer's matrices."""
    pipeline_model_parallel_size: int = 1
    """Ranks that the layers are dealt over."""
    context_parallel_size: int = 1
    """Ranks that share each sequence."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError(
                "models",
                required="at least one checkpoint",
                given="none",
                fix="give folders: models=[base-model,extended-model]",
            )
        for name in ("original_window", "target_window", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_TOKENS:
                raise ConfigError(name, required="1 to 2^63 - 1 tokens", given=value, fix=f"{name}=4096")
        for name, allowed in (("backend", BACKENDS), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    name,
                    required=f"one of {', '.join(allowed)}",
                    given=getattr(self, name),
                    fix="name one of them",
                )
        if not self.chosen_tasks():
            raise ConfigError(
                "tasks",
                required=f"at least one task: {', '.join(task_names())}",
                given="none",
                fix="write e.g. `perplexity: {}` under tasks",
            )

    def chosen_tasks(self) -> list[Task[Any, Any]]:
        """Return the tasks with their arguments.

        Raises:
            ConfigError: an unknown task or argument, or a value that cannot be.
        """
        return chosen_tasks(self.tasks)


def check_keys(values: Mapping[str, Any]) -> None:
    """Refuse all unknown keys at once, those of tasks too, each with the nearest that there is.

    Raises:
        ConfigError: names them. A task that is unknown and the only mistake is left to `chosen_tasks`, which
            knows who may have it.
    """
    given = values.get("tasks")
    names = [str(name) for name in given] if isinstance(given, Mapping) else []
    known = {**dict.fromkeys(item.name for item in fields(EvaluateConfig)), "tasks": known_arguments(names)}
    found = unknown_keys(known, values)
    missing = [name for name in names if name not in task_names()]
    if found or len(missing) > 1:
        found += [UnknownKey(f"tasks.{name}", "tasks", tuple(task_names())) for name in missing]
    refuse_unknown(found)
