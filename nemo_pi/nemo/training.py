"""Training: NeMo's exp_manager and Lightning's trainer around the engine, from checks to export."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from nemo.utils.exp_manager import exp_manager

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.evaluation_plan import PlannedEvaluation
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.errors import CheckpointError
from nemo_pi.nemo.checkpointing import DistributedCheckpointing
from nemo_pi.nemo.evaluating import Evaluating, state_of
from nemo_pi.nemo.export import export_engine, export_engine_adapters
from nemo_pi.nemo.folders import RunFolders, sole_writer_of
from nemo_pi.nemo.loggers import tolerate_failures
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.preflight import check_before_training, check_folders, checkpoint_to_resume
from nemo_pi.nemo.progress import StepProgressBar
from nemo_pi.nemo.resuming import restore_progress
from nemo_pi.nemo.settings import self_contained_model_config
from nemo_pi.nemo.strategy import MegatronStrategy
from nemo_pi.parallel import launcher, liveness, orphans
from nemo_pi.parallel.cpu_memory import keep_freed_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What training has come to."""

    exported: Path | None
    """The Hugging Face folder, if one was asked for and training came to its end."""
    global_step: int
    """The step that was reached."""
    finished: bool
    """Whether it is the run's last one, or the one that reached `model.evaluation.stop_at`."""
    metrics: dict[str, float]
    """The last value of each."""


def train(resolved: ResolvedRun, folders: RunFolders, evaluation: PlannedEvaluation | None = None) -> Trained:
    """Trains to the run's last step, from its latest checkpoint where it has one; every rank calls it.

    Args:
        resolved: the validated run.
        folders: where it writes.
        evaluation: what it measures meanwhile.

    Raises:
        NemoPiError: before anything is allocated or written, wherever it can be known by then.
    """
    orphans.watch_launcher()
    checkpoint_to_resume(resolved, folders)
    check_before_training(resolved)
    check_folders(resolved, folders)
    with sole_writer_of(resolved, folders):
        return _train(resolved, folders, evaluation)


def _train(resolved: ResolvedRun, folders: RunFolders, evaluation: PlannedEvaluation | None) -> Trained:
    # Again: until the folders were this run's own, another one may have saved.
    resume_from = checkpoint_to_resume(resolved, folders)
    if not torch.cuda.is_available():
        keep_freed_memory()
    saving = DistributedCheckpointing(folders.checkpoints, folders.save_every, folders.keep)
    measuring = None
    if evaluation is not None:
        measuring = Evaluating(evaluation, folders.logs, saving, resolved.max_steps)
    trainer = _trainer(resolved, saving, *([] if measuring is None else [measuring]))
    try:
        exp_manager(trainer, folders.exp_manager_settings(resolved.exp_manager))
    except OSError as error:
        raise CheckpointError(
            "exp_manager.exp_dir",
            required="a folder that logs can be written to",
            given=f"{folders.logs}: {error}",
            fix="give another folder, or free some space there",
        ) from error
    tolerate_failures(trainer.loggers)
    model = ContextExtensionModel(
        self_contained_model_config(resolved), trainer, run=resolved, resume_from=resume_from
    )
    # Not trainer.global_step: before it fits, Lightning does not know that the model steps by itself.
    step = 0
    if resume_from is not None:
        restore_progress(trainer, model, resume_from)
        step = read_summary(resume_from).global_step
    reached = owed = False
    if evaluation is not None:
        reached, owed = state_of(evaluation, folders.logs, step, resolved.max_steps)
    done_before = reached or step >= resolved.max_steps
    if done_before:
        what = "The goal was reached" if reached else f"All {resolved.max_steps} steps were done"
        _say(f"{what} before; nothing is left to train.")
    exported = None
    if not done_before or owed or _lacks_export(resolved):
        with _missing_ranks_named():
            trainer.fit(model)
            assert model.engine is not None
            step = trainer.global_step
            if measuring is not None:
                measuring.catch_up(trainer, model)
                reached = measuring.reached
            if reached or step >= resolved.max_steps:
                with liveness.patient():
                    exported = _export(model.engine, resolved)
    liveness.stop()
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return Trained(exported, step, reached or step >= resolved.max_steps, metrics)


def _export(engine: MegatronEngine, resolved: ResolvedRun) -> Path | None:
    """What the YAML asks for; the merged model's folder, or that of adapters where it is the only one."""
    adapters, path = resolved.export.peft_path, resolved.export.hf_path
    exported = None if adapters is None else export_engine_adapters(engine, resolved, Path(adapters))
    return exported if path is None else export_engine(engine, resolved, Path(path))


@contextmanager
def _missing_ranks_named() -> Iterator[None]:
    """Ends this rank with one sentence where a collective has failed because another rank is missing."""
    try:
        yield
    except Exception as error:
        explained = liveness.explained(error)
        if explained is None:
            raise
        liveness.end(explained)


def _lacks_export(resolved: ResolvedRun) -> bool:
    """Whether the end of the run was cut off between its last checkpoint and its export."""
    return not all(path.exists() for path in resolved.export.paths)


def _trainer(resolved: ResolvedRun, *ours: Callback) -> Trainer:
    arguments: dict[str, Any] = dict(resolved.trainer)
    show_bar = arguments.pop("enable_progress_bar", True)
    # Megatron handles 16-bit weights itself; Lightning's precision plugins must stay out of it.
    arguments["precision"] = "32-true"
    if not torch.cuda.is_available():  # where Lightning takes a plain number only: neither -1 nor a list
        arguments["devices"] = resolved.parallel.world_size // (arguments.get("num_nodes") or 1)
    arguments.update(_launched_devices())
    if resolved.exp_manager.get("max_time_per_run") is not None:
        arguments["max_time"] = resolved.exp_manager["max_time_per_run"]
    callbacks: list[Any] = [*ours]
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
        strategy=MegatronStrategy(resolved.parallel, resolved.seed, resolved.timeout_minutes),
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


def _say(what: str) -> None:
    if launcher.is_global_zero():
        logger.info(what)
