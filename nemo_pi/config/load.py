"""From a Hydra configuration to a ResolvedRun: merged, converted and checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from omegaconf import DictConfig

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.exp_manager_keys import check_exp_manager, check_name
from nemo_pi.config.extension import check_extends, resolve_extension, resolve_training_length
from nemo_pi.config.foreign_keys import EXP_MANAGER, TRAINER
from nemo_pi.config.kernels import resolve_kernels
from nemo_pi.config.loss_choice import resolve_loss
from nemo_pi.config.megatron import filled, options_of
from nemo_pi.config.merge import MISSING, convert, from_mapping, refuse_targets, refuse_unknown, unknown_keys
from nemo_pi.config.parallelism import check_sequence, resolve_batches, resolve_layout
from nemo_pi.config.places import place_of
from nemo_pi.config.plain import plain
from nemo_pi.config.pose import resolve_pose
from nemo_pi.config.recipe import (
    check_initialization,
    dtype_of,
    resolve_export,
    resolve_optim,
    resolve_precision,
    resolve_recompute,
    resolve_tokenizer,
)
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.schema import ModelConfig, RunConfig
from nemo_pi.config.sections import DataConfig
from nemo_pi.config.shapes import resolve_shape
from nemo_pi.config.trainer_keys import STEP_BASED, check_trainer, trainer_number
from nemo_pi.data.splits import parse_data_prefix, parse_splits
from nemo_pi.engine.overlap import overlaps
from nemo_pi.engine.schedule import LearningRateSchedule
from nemo_pi.engine.settings import AdamSettings, EngineSettings
from nemo_pi.errors import ConfigError, Together
from nemo_pi.model.engine_layers import transformer_engine_available
from nemo_pi.model.options import BuildOptions

_MOST_WORKERS, _MOST_STEPS = 256, 10**12


def merge(cfg: DictConfig | Mapping[str, Any]) -> RunConfig:
    """The configuration as dataclasses: names and types checked, values not yet.

    Raises:
        ConfigError: unknown key, wrong type, `_target_`, an interpolation that cannot be resolved.
    """
    values = plain(cfg)
    _refuse_keys(values)
    return from_mapping(RunConfig, _with_one_path(values))


def _refuse_keys(values: Mapping[str, Any]) -> None:
    """Code named by configuration, and keys that there are not, each with the place of one of its name."""
    refuse_targets(values)
    found = [
        *unknown_keys(RunConfig, values),
        *unknown_keys(TRAINER, values.get("trainer"), "trainer"),
        *unknown_keys(EXP_MANAGER, values.get("exp_manager"), "exp_manager"),
    ]
    places = [place_of(one.name.rpartition(".")[2]) for one in found]
    refuse_unknown(
        [one if at is None else replace(one, below=(at,)) for one, at in zip(found, places, strict=True)]
    )


def checkpoint_path(cfg: DictConfig | Mapping[str, Any]) -> str | None:
    """Where to start from: restore_from_path at the top level or under model; None for random weights.

    A dry run may leave it open (`???`): the plan is then made from the YAML's own shape.

    Raises:
        ConfigError: it is open and this is no dry run, or the two places disagree.
    """
    values = plain(cfg)
    path = _with_one_path(values).get("restore_from_path")
    if path == MISSING:
        # Asked for before anything else; whoever must start again anyway learns of misspelt keys, too.
        together = Together()
        together.keep(_path_wanted())
        together.run(_refuse_keys, values)
        together.stop()
    converted: str | None = convert(path, str | None, "restore_from_path")
    return converted


def _path_wanted() -> ConfigError:
    return ConfigError(
        "restore_from_path",
        required="a value: the YAML leaves it open (???)",
        given="none",
        fix="restore_from_path=/path/to/checkpoint, a Hugging Face folder or a distributed checkpoint",
    )


def resolve(
    cfg: DictConfig | Mapping[str, Any], *, world_size: int, summary: CheckpointSummary | None
) -> ResolvedRun:
    """Check every value against the others and against the checkpoint, and derive what follows from them.

    Args:
        cfg: what Hydra composed (conf/extend_context.yaml, conf/pretrain.yaml).
        world_size: ranks of the run (see `nemo_pi.config.trainer_keys.world_size_of`).
        summary: what the checkpoint says of itself; None for random weights.

    Raises:
        ConfigError: naming key, requirement, value and fix.
    """
    config = merge(cfg)
    model, trainer = config.model, config.trainer
    together = Together()  # what does not depend on each other is refused in one message
    together.run(check_trainer, trainer)
    together.run(check_name, "name", config.name)
    together.run(check_exp_manager, config.exp_manager)
    max_steps = together.run(_max_steps, trainer)
    precision = together.run(resolve_precision, trainer.get("precision"), summary)
    kernels = together.run(resolve_kernels, model)
    together.run(check_initialization, model)
    data = together.run(_resolve_data, model.data, model.seed, config.dry_run)
    optim = together.run(resolve_optim, model.optim, max_steps) if max_steps else None
    together.run(_check_endurance, model)
    shape = together.run(resolve_shape, model, summary)
    found = layout = None
    if shape is not None:
        found = together.run(resolve_extension, model, shape, summary)
        layout = together.run(resolve_layout, model, shape, world_size)
    together.stop()
    assert max_steps and precision and kernels and data and optim and shape and found and layout
    (wanted, backends), (extension, source) = kernels, found
    length = resolve_training_length(model, extension)
    pose = resolve_pose(model.data, training_length=length, target_window=extension.target_window)
    check_extends(model, extension, summary)
    check_sequence(length, layout)
    build = filled(
        BuildOptions,
        options_of(model, "transformer"),
        params_dtype=dtype_of(precision),
        initialize=summary is None,
        backends=backends,
        # Where it is demanded and cannot be had, a plan is still made; preflight and engine stop.
        transformer_engine=transformer_engine_available() if wanted is None else wanted,
        loss_chunk_tokens=resolve_loss(model, shape),
        recompute=resolve_recompute(model, shape, layout),
    )
    engine = EngineSettings(
        shape,
        extension,
        layout,
        micro_batch_size=model.micro_batch_size,
        build=build,
        optim=filled(AdamSettings, options_of(model, "optimizer"), clip_grad=_gradient_clip(trainer) or 0.0),
        ddp=options_of(model, "ddp"),
        length=length,
        rotary_length=None if pose is None else pose.target_window,
    )
    overlaps(engine)  # its two keys must agree
    return ResolvedRun(
        name=config.name,
        dry_run=config.dry_run,
        config=config,
        checkpoint=summary,
        checkpoint_open=summary is None and _path_is_open(plain(cfg)),
        window_source=source,
        training_length=length,
        pose=pose,
        engine=engine,
        schedule=LearningRateSchedule(lr=optim.lr, **asdict(optim.sched)),
        global_batch_size=model.global_batch_size,
        num_micro_batches=resolve_batches(model, layout),
        max_steps=max_steps,
        precision=precision,
        optim=optim,
        data=data,
        tokenizer=resolve_tokenizer(model.tokenizer, summary),
        export=resolve_export(model.export, summary),
        seed=model.seed,
        skip_bad_steps=model.skip_bad_steps,
        timeout_minutes=model.distributed_timeout_minutes,
        transformer_engine=wanted,
        trainer=_trainer_arguments(trainer, precision, max_steps),
        exp_manager=config.exp_manager,
    )


def _with_one_path(values: dict[str, Any]) -> dict[str, Any]:
    """A copy with restore_from_path at the top level only, from whichever of the two places gives it."""
    inner = values.get("model")
    if not isinstance(inner, Mapping):
        return values
    top, below = values.get("restore_from_path"), inner.get("restore_from_path")
    given = [path for path in (top, below) if path is not None and path != MISSING]
    if len(given) == 2 and top != below:
        raise ConfigError(
            "restore_from_path",
            required="one path: at the top level or under model",
            given=f"{top} and model.restore_from_path={below}",
            fix="remove one of the two",
        )
    open_ = _path_is_open(values) and not values.get("dry_run")
    path = given[0] if given else (MISSING if open_ else None)
    return {**values, "restore_from_path": path, "model": {**inner, "restore_from_path": None}}


def _path_is_open(values: Mapping[str, Any]) -> bool:
    """Whether the YAML leaves restore_from_path to be given (`???`), at either place."""
    inner = values.get("model")
    below = inner.get("restore_from_path") if isinstance(inner, Mapping) else None
    return MISSING in (values.get("restore_from_path"), below)


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


def _gradient_clip(trainer: Mapping[str, Any]) -> float | None:
    value = trainer_number(trainer, "gradient_clip_val", float, None)
    if value is not None and value < 0:
        raise ConfigError(
            "trainer.gradient_clip_val", required="0 or more", given=value, fix="null does not clip"
        )
    return value or None


def _resolve_data(data: DataConfig, seed: int, dry_run: bool) -> DataConfig:
    if data.data_prefix in (None, [], {}) and not dry_run:
        raise ConfigError(
            "model.data.data_prefix",
            required="the path of indexed data without .bin/.idx, or a blend [weight, path, ...]",
            given="none",
            fix="make some with examples/preprocess_data.py, then model.data.data_prefix=[/path/prefix]",
        )
    parse_splits(data.splits_string)
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


def _trainer_arguments(trainer: Mapping[str, Any], precision: str, max_steps: int) -> dict[str, Any]:
    kept = {key: value for key, value in trainer.items() if key != "gradient_clip_val"}
    return {**STEP_BASED, **kept, "precision": precision, "max_steps": max_steps}
