"""From a Hydra configuration to a ResolvedRun: merged, converted and checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from omegaconf import DictConfig

from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.activations import resolve_mlp_chunk, with_offload
from nemo_pi.config.evaluation import check_goal_in_reach, resolve_evaluation
from nemo_pi.config.extension import check_extends, resolve_training_length
from nemo_pi.config.foreign_keys import EXP_MANAGER, TRAINER
from nemo_pi.config.kernels import check_shifted
from nemo_pi.config.linears import resolve_lr_multipliers
from nemo_pi.config.loss_choice import resolve_loss
from nemo_pi.config.megatron import filled, options_of
from nemo_pi.config.merge import MISSING, convert, from_mapping, refuse_targets, refuse_unknown, unknown_keys
from nemo_pi.config.parallelism import check_sequence, resolve_batches
from nemo_pi.config.parts import Parts, resolve_parts
from nemo_pi.config.peft import resolve_peft
from nemo_pi.config.places import place_of
from nemo_pi.config.plain import plain
from nemo_pi.config.pose import resolve_pose
from nemo_pi.config.recipe import (
    dtype_of,
    resolve_export,
    resolve_recompute,
    resolve_tokenizer,
)
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.schema import RunConfig
from nemo_pi.config.stages import read_stages, take_stages, values_of_stage
from nemo_pi.config.staging import in_order, resolved_together
from nemo_pi.config.trainer_keys import STEP_BASED, trainer_number
from nemo_pi.engine.overlap import overlaps
from nemo_pi.engine.schedule import LearningRateSchedule
from nemo_pi.engine.settings import AdamSettings, EngineSettings
from nemo_pi.errors import ConfigError, Together
from nemo_pi.model.engine_layers import transformer_engine_available
from nemo_pi.model.options import BuildOptions


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

    Returns:
        The run; of one with stages, the last stage, which makes the model that the run leaves.

    Raises:
        ConfigError: naming key, requirement, value and fix.
    """
    return resolve_stages(cfg, world_size=world_size, summary=summary)[-1]


def resolve_stages(
    cfg: DictConfig | Mapping[str, Any], *, world_size: int, summary: CheckpointSummary | None
) -> tuple[ResolvedRun, ...]:
    """The stages of a run in their order, each checked as a run of its own; without any, the run itself.

    Args:
        cfg, world_size, summary: as resolve's.

    Raises:
        ConfigError: everything that is wrong with any of the stages, by `stages[1].key`.
    """
    base, given = take_stages(plain(cfg))
    if given is None:
        run = _resolve_one(base, world_size, summary)
        return (_with_goal_in_reach(run, run.extension.target_window),)
    entries = read_stages(given)
    parts = [values_of_stage(base, entry, last=entry is entries[-1]) for entry in entries]
    runs = resolved_together(entries, [partial(_resolve_one, part, world_size, summary) for part in parts])
    furthest = max(run.extension.target_window for run in runs)
    runs = resolved_together(entries, [partial(_with_goal_in_reach, run, furthest) for run in runs])
    return in_order(entries, runs)


def _with_goal_in_reach(run: ResolvedRun, furthest: int) -> ResolvedRun:
    check_goal_in_reach(run.evaluation, furthest)
    return run


def _resolve_one(
    values: Mapping[str, Any], world_size: int, summary: CheckpointSummary | None
) -> ResolvedRun:
    """A run without stages, or one stage of a run, as if it were all."""
    config = merge(values)
    parts = resolve_parts(config, world_size, summary)
    model, extension, layout = config.model, parts.extension, parts.layout
    length = resolve_training_length(model, extension)
    pose = resolve_pose(model.data, training_length=length, target_window=extension.target_window)
    check_extends(model, extension, summary)
    check_sequence(length, layout)
    check_shifted(model, length)
    engine = _engine_settings(config, parts, summary)
    engine = replace(engine, length=length, rotary_length=None if pose is None else pose.target_window)
    overlaps(engine)  # its two keys must agree
    return ResolvedRun(
        name=config.name,
        dry_run=config.dry_run,
        config=config,
        checkpoint=summary,
        checkpoint_open=summary is None and _path_is_open(values),
        window_source=parts.window_source,
        training_length=length,
        pose=pose,
        engine=engine,
        schedule=LearningRateSchedule(lr=parts.optim.lr, **asdict(parts.optim.sched)),
        global_batch_size=model.global_batch_size,
        num_micro_batches=resolve_batches(model, layout),
        max_steps=parts.max_steps,
        precision=parts.precision,
        optim=parts.optim,
        data=parts.data,
        tokenizer=resolve_tokenizer(model.tokenizer, summary),
        evaluation=resolve_evaluation(model.evaluation, extension.target_window),
        export=resolve_export(model.export, summary),
        seed=model.seed,
        skip_bad_steps=model.skip_bad_steps,
        timeout_minutes=model.distributed_timeout_minutes,
        transformer_engine=parts.transformer_engine,
        trainer=_trainer_arguments(config.trainer, parts.precision, parts.max_steps),
        exp_manager=config.exp_manager,
    )


def _engine_settings(config: RunConfig, parts: Parts, summary: CheckpointSummary | None) -> EngineSettings:
    """What the engine is built of, but for the lengths of its rows."""
    model, wanted = config.model, parts.transformer_engine
    lora = resolve_peft(model, parts.shape, summary, dry_run=config.dry_run)
    lr_multipliers = resolve_lr_multipliers(parts.optim.lr_multipliers, lora)
    if lora is not None:
        wanted = False
    build = filled(
        BuildOptions,
        options_of(model, "transformer"),
        params_dtype=dtype_of(parts.precision),
        initialize=summary is None,
        backends=parts.backends,
        # Where it is demanded and cannot be had, a plan is still made; preflight and engine stop.
        transformer_engine=transformer_engine_available() if wanted is None else wanted,
        loss_chunk_tokens=resolve_loss(model, parts.shape),
        mlp_chunk_tokens=resolve_mlp_chunk(model, parts.shape),
        attention_group=model.shifted_attention_group,
        lora=lora,
        recompute=with_offload(model, resolve_recompute(model, parts.shape, parts.layout)),
    )
    clip = _gradient_clip(config.trainer) or 0.0
    return EngineSettings(
        parts.shape,
        parts.extension,
        parts.layout,
        micro_batch_size=model.micro_batch_size,
        build=build,
        optim=filled(
            AdamSettings,
            options_of(replace(model, optim=parts.optim), "optimizer"),
            clip_grad=clip,
            lr_multipliers=lr_multipliers,
        ),
        ddp=options_of(model, "ddp"),
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


def _gradient_clip(trainer: Mapping[str, Any]) -> float | None:
    value = trainer_number(trainer, "gradient_clip_val", float, None)
    if value is not None and value < 0:
        raise ConfigError(
            "trainer.gradient_clip_val", required="0 or more", given=value, fix="null does not clip"
        )
    return value or None


def _trainer_arguments(trainer: Mapping[str, Any], precision: str, max_steps: int) -> dict[str, Any]:
    kept = {key: value for key, value in trainer.items() if key != "gradient_clip_val"}
    return {**STEP_BASED, **kept, "precision": precision, "max_steps": max_steps}
