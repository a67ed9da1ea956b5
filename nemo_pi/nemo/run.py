"""A run from its YAML to its results: plan, train, save, export."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from nemo.utils import logging
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.load import checkpoint_path, resolve
from nemo_pi.config.plan import render_plan
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.config.trainer_keys import world_size_of
from nemo_pi.nemo.checkpointing import DistributedCheckpointing
from nemo_pi.nemo.folders import RunFolders, run_folders
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.preflight import check_before_training, check_folders, checkpoint_to_resume
from nemo_pi.nemo.progress import StepProgressBar
from nemo_pi.nemo.settings import self_contained_model_config
from nemo_pi.nemo.strategy import MegatronStrategy
from nemo_pi.nemo.transfer import export_model
from nemo_pi.parallel import groups
from nemo_pi.parallel.cpu_memory import keep_freed_memory


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind."""

    folders: RunFolders
    """Logs and checkpoints."""
    exported: Path | None
    """The Hugging Face folder, if one was asked for and training came to its end."""
    global_step: int
    """Optimizer steps behind the final weights."""
    max_steps: int
    """Optimizer steps of the whole run; more than global_step where the run was told to stop."""

    def announce(self) -> None:
        """Says on the first rank where everything is."""
        if groups.is_global_zero():
            if self.global_step < self.max_steps:
                print(f"Stopped at step {self.global_step} of {self.max_steps}; start it again to go on.")
            print(f"Trained to step {self.global_step}. Checkpoints: {self.folders.checkpoints}")
            if self.exported is not None:
                print(f"Hugging Face folder: {self.exported}")


def run(cfg: DictConfig) -> RunResult | None:
    """Plans and trains what `cfg` describes; every rank calls it.

    Args:
        cfg: a composed conf/extend_context.yaml or conf/pretrain.yaml.

    Returns:
        What was left behind; None after a dry run.

    Raises:
        NemoPiError: before anything is allocated or written, wherever it can be known by then.
    """
    path = checkpoint_path(cfg)
    summary = None if path is None else read_summary(path)
    resolved = resolve(cfg, world_size=world_size_of(cfg.get("trainer") or {}), summary=summary)
    folders = run_folders(resolved)
    if _is_first_rank():
        print(render_plan(resolved, logs=folders.logs, checkpoints=folders.checkpoints), flush=True)
    if resolved.dry_run:
        return None
    resume_from = checkpoint_to_resume(resolved, folders)
    check_before_training(resolved)
    check_folders(resolved, folders)
    return _train(resolved, folders, resume_from)


def _train(resolved: ResolvedRun, folders: RunFolders, resume_from: Path | None) -> RunResult:
    if not torch.cuda.is_available():
        keep_freed_memory()
    trainer = _trainer(resolved, folders)
    exp_manager(trainer, folders.exp_manager_settings(resolved.exp_manager))
    model = ContextExtensionModel(
        self_contained_model_config(resolved), trainer, run=resolved, resume_from=resume_from
    )
    if resume_from is not None:
        _restore_progress(trainer, model, resume_from)
    done_before = trainer.global_step >= resolved.max_steps
    if done_before:
        logging.info(f"All {resolved.max_steps} steps were done before; nothing is left to train.")
    exported = None
    if not done_before or _lacks_export(resolved):
        trainer.fit(model)
        assert model.engine is not None
        if trainer.global_step >= resolved.max_steps:
            exported = export_model(model.engine, resolved)
    return RunResult(folders, exported, trainer.global_step, resolved.max_steps)


def _lacks_export(resolved: ResolvedRun) -> bool:
    """Whether the end of the run was cut off between its last checkpoint and its export."""
    path = resolved.export.hf_path
    return path is not None and not Path(path).exists()


def _trainer(resolved: ResolvedRun, folders: RunFolders) -> Trainer:
    arguments: dict[str, Any] = dict(resolved.trainer)
    show_bar = arguments.pop("enable_progress_bar", True)
    # Megatron handles 16-bit weights itself; Lightning's precision plugins must stay out of it.
    arguments["precision"] = "32-true"
    if not torch.cuda.is_available():  # where Lightning takes a plain number only: neither -1 nor a list
        arguments["devices"] = resolved.parallel.world_size // (arguments.get("num_nodes") or 1)
    arguments.update(_launched_devices())
    if resolved.exp_manager.get("max_time_per_run") is not None:
        arguments["max_time"] = resolved.exp_manager["max_time_per_run"]
    callbacks: list[Any] = [DistributedCheckpointing(folders.checkpoints, folders.save_every, folders.keep)]
    if show_bar:
        callbacks.append(StepProgressBar(log_every=arguments.get("log_every_n_steps") or 10))
    return Trainer(
        **{
            "accelerator": "auto",
            "logger": False,
            "enable_checkpointing": False,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **arguments,
        },
        strategy=MegatronStrategy(resolved.parallel, resolved.seed),
        # Lightning's own requeueing would write a second kind of checkpoint beside ours.
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
        callbacks=callbacks,
        enable_progress_bar=bool(show_bar),
    )


def _launched_devices() -> dict[str, int]:
    """Devices and nodes as torchrun started them, so that the YAML need not repeat them."""
    if "LOCAL_WORLD_SIZE" not in os.environ or "WORLD_SIZE" not in os.environ:
        return {}
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}


def _restore_progress(trainer: Trainer, model: ContextExtensionModel, folder: Path) -> None:
    summary = read_summary(folder)
    model.consumed_samples = summary.consumed_samples
    # Lightning has no setter: this counter is what trainer.global_step and max_steps read.
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    progress.ready = progress.completed = summary.global_step
    # Two more counters of steps: the axis of loggers, and what val_check_interval divides.
    epoch_loop = trainer.fit_loop.epoch_loop
    epoch_loop._batches_that_stepped = summary.global_step
    batches = epoch_loop.batch_progress.total
    batches.ready = batches.started = batches.processed = batches.completed = summary.global_step
    logging.info(f"Going on from {folder}: step {summary.global_step}.")


def _is_first_rank() -> bool:
    if dist.is_initialized():
        return groups.is_global_zero()
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", 0)))) == 0
