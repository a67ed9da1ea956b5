"""Parts of a run that do not depend on each other: all that is wrong with them is refused in one message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.exp_manager_keys import check_exp_manager, check_name
from nemo_pi.config.extension import resolve_extension
from nemo_pi.config.kernels import resolve_kernels
from nemo_pi.config.optimizer_memory import resolve_optimizer_memory
from nemo_pi.config.parallelism import resolve_layout
from nemo_pi.config.recipe import check_initialization, resolve_optim, resolve_precision
from nemo_pi.config.schema import ModelConfig, RunConfig
from nemo_pi.config.sections import DataConfig, OptimConfig
from nemo_pi.config.shapes import resolve_shape
from nemo_pi.config.trainer_keys import check_trainer, trainer_number
from nemo_pi.data.length_weights import parse_length_weights
from nemo_pi.data.splits import parse_data_prefix, parse_splits
from nemo_pi.errors import ConfigError, Together
from nemo_pi.families.shape import ModelShape
from nemo_pi.model.options import BackendRequests
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension

_MOST_WORKERS, _MOST_STEPS = 256, 10**12


@dataclass(frozen=True)
class Parts:
    """What each section of a configuration says, checked by itself and against the checkpoint."""

    max_steps: int
    """Optimizer steps."""
    precision: str
    """trainer.precision, `auto` resolved."""
    transformer_engine: bool | None
    """Whether its layers are asked for; None leaves it to what is installed."""
    backends: BackendRequests
    """What shall do each job of a layer."""
    data: DataConfig
    """With its seed."""
    optim: OptimConfig
    """With the lengths of its schedule."""
    shape: ModelShape
    """Of the model."""
    extension: ContextExtension
    """How positions are made."""
    window_source: str
    """Where the original window is from."""
    layout: ParallelLayout
    """Over the ranks."""


def resolve_parts(config: RunConfig, world_size: int, summary: CheckpointSummary | None) -> Parts:
    """Check every section.

    Args:
        config: from merge.
        world_size: ranks of the run.
        summary: what the checkpoint says of itself; None for random weights.

    Raises:
        ConfigError: everything that is wrong, with key, requirement, value and fix of each.
    """
    model, trainer = config.model, config.trainer
    together = Together()
    together.run(check_trainer, trainer)
    together.run(check_name, "name", config.name)
    together.run(check_exp_manager, config.exp_manager)
    max_steps = together.run(_max_steps, trainer)
    precision = together.run(resolve_precision, trainer.get("precision"), summary)
    kernels = together.run(resolve_kernels, model)
    together.run(check_initialization, model)
    data = together.run(_resolve_data, model.data, model.seed, config.dry_run)
    optim = together.run(resolve_optim, model.optim, max_steps) if max_steps else None
    if optim is not None:
        optim = together.run(resolve_optimizer_memory, optim, model.use_distributed_optimizer)
    together.run(_check_endurance, model)
    shape = together.run(resolve_shape, model, summary)
    found = layout = None
    if shape is not None:
        found = together.run(resolve_extension, model, shape, summary)
        layout = together.run(resolve_layout, model, shape, world_size)
    together.stop()
    assert max_steps and precision and kernels and data and optim and shape and found and layout
    return Parts(max_steps, precision, *kernels, data, optim, shape, *found, layout)


def _max_steps(trainer: Mapping[str, Any]) -> int:
    steps = int(trainer_number(trainer, "max_steps", int, -1))
    if not 1 <= steps <= _MOST_STEPS:
        raise ConfigError(
            "trainer.max_steps",
            required=f"1 to {_MOST_STEPS:,} optimizer steps",
            given=trainer.get("max_steps"),
            fix="trainer.max_steps=1000 is the paper's for position interpolation",
        )
    return steps


def _check_endurance(model: ModelConfig) -> None:
    """How many bad steps are left out, and how long ranks wait for one that hangs."""
    if model.skip_bad_steps < 0:
        raise ConfigError(
            "model.skip_bad_steps",
            required="0 or more steps",
            given=model.skip_bad_steps,
            fix="model.skip_bad_steps=0 leaves none out",
        )
    minutes = model.distributed_timeout_minutes
    if not 0.05 <= minutes <= 10_000:
        raise ConfigError(
            "model.distributed_timeout_minutes",
            required="minutes from 0.05 to 10000",
            given=minutes,
            fix="model.distributed_timeout_minutes=5",
        )


def _resolve_data(data: DataConfig, seed: int, dry_run: bool) -> DataConfig:
    if data.data_prefix in (None, [], {}) and not dry_run:
        raise ConfigError(
            "model.data.data_prefix",
            required="the path of indexed data without .bin/.idx, or a blend [weight, path, ...]",
            given="none",
            fix="make some with examples/preprocess_data.py, then model.data.data_prefix=[/path/prefix]",
        )
    parse_splits(data.splits_string)
    parse_length_weights(data.length_weights)
    if data.data_prefix:
        parse_data_prefix(data.data_prefix)
    if data.num_workers > _MOST_WORKERS:
        raise ConfigError(
            "model.data.num_workers",
            required=f"at most {_MOST_WORKERS} processes for one rank",
            given=data.num_workers,
            fix="model.data.num_workers=2",
        )
    for key, number in (("num_workers", data.num_workers), ("seed", data.seed or 0)):
        if number < 0:
            raise ConfigError(
                f"model.data.{key}", required="0 or more", given=number, fix=f"model.data.{key}=0"
            )
    return replace(data, seed=seed if data.seed is None else data.seed)
