"""From a validated run to what the engine, the schedule and a restored model are built from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_pi.config.load import resolve
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.shapes import shape_section
from nemo_pi.engine.engine import EngineSettings
from nemo_pi.engine.optimizer import AdamSettings
from nemo_pi.engine.schedule import LearningRateSchedule
from nemo_pi.model.build import BuildOptions
from nemo_pi.model.layer_spec import resolve_transformer_engine


def engine_settings(run: ResolvedRun) -> EngineSettings:
    """What MegatronEngine needs of a run."""
    wanted = "auto" if run.transformer_engine is None else run.transformer_engine
    build = BuildOptions(
        params_dtype=run.compute_dtype,
        init_method_std=run.init_method_std,
        rotary_kernel=run.rotary_kernel,
        transformer_engine=resolve_transformer_engine(wanted),
        loss_chunk_tokens=run.loss.chunk_tokens,
        recompute_granularity=run.recompute.granularity,
        recompute_method=run.recompute.method,
        recompute_num_layers=run.recompute.num_layers,
        recompute_modules=run.recompute.modules,
    )
    optim = AdamSettings(
        lr=run.optim.lr,
        betas=(run.optim.betas[0], run.optim.betas[1]),
        eps=run.optim.eps,
        weight_decay=run.optim.weight_decay,
        clip_grad=run.gradient_clip_val or 0.0,
        # Also where there is one replica: its checkpoints can be resumed with any number of them.
        distributed=run.use_distributed_optimizer,
    )
    return EngineSettings(
        shape=run.shape,
        extension=run.extension,
        layout=run.parallel,
        micro_batch_size=run.micro_batch_size,
        build=build,
        optim=optim,
        rotary_length=None if run.pose is None else run.pose.target_window,
    )


def schedule(run: ResolvedRun) -> LearningRateSchedule:
    """The learning rate over the run's steps."""
    sched = run.optim.sched
    return LearningRateSchedule(
        peak=run.optim.lr,
        warmup_steps=sched.warmup_steps,
        warmup_start_fraction=sched.warmup_start_fraction,
        decay=sched.name,
        max_steps=sched.max_steps or run.max_steps,
        constant_steps=sched.constant_steps,
        minimum=sched.min_lr,
    )


def self_contained_model_config(run: ResolvedRun) -> DictConfig:
    """The model section with everything the checkpoint supplied written out.

    A .nemo file carries it, so that the model can be rebuilt where that checkpoint is not.
    """
    extension = run.extension
    section: dict[str, Any] = asdict(run.config.model)
    section.update(
        restore_from_path=None,
        **shape_section(run.shape),
        rotary_base=extension.base,
        rotary_percentage=extension.rotary_percent,
        rotary_interleaved=extension.interleaved,
        original_max_position_embeddings=extension.original_window,
        max_position_embeddings=extension.target_window,
        pos_scaling_type=extension.method,
        pos_scaling_factor=extension.factor,
        pos_scaling_extra_args=extension.extra_args or None,
        seq_len_interpolation_factor=None,
    )
    return OmegaConf.create(section)


# Keys that NeMo adds to a model's section and that are not ours to check.
_NEMO_KEYS = ("target", "nemo_version")


def run_of_model_config(cfg: DictConfig) -> ResolvedRun:
    """A one-rank run from a self-contained model section, as a .nemo file holds it."""
    section = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(section, dict)
    model = {str(key): value for key, value in section.items() if key not in _NEMO_KEYS}
    # It reads what it is given, at its own length; how it was trained no longer matters.
    model["data"] = {**(model.get("data") or {}), "pose": None}
    # Nothing is trained: the number of steps must only leave room for any warm-up.
    values = {"model": model, "trainer": {"max_steps": 10**9}, "dry_run": True}
    return resolve(OmegaConf.create(values), world_size=1, summary=None)
