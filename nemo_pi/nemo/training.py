"""Training: NeMo's exp_manager and Lightning's trainer around the engine, from checks to export."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from nemo.utils.exp_manager import exp_manager

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.errors import CheckpointError
from nemo_pi.nemo.checkpointing import DistributedCheckpointing
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


def train(resolved: ResolvedRun, folders: RunFolders) -> tuple[Path | None, int, dict[str, float]]:
    """Trains to the run's last step, from its latest checkpoint where it has one; every rank calls it.

    Returns:
        The exported Hugging Face folder, if one was asked for and training came to its end; the step that was
        reached; and the last value of each metric.

    Raises:
        NemoPiError: before anything is allocated or written, wherever it can be known by then.
    """
    orphans.watch_launcher()
    checkpoint_to_resume(resolved, folders)
    check_before_training(resolved)
    check_folders(resolved, folders)
    with sole_writer_of(resolved, folders):
        return _train(resolved, folders)


def _train(resolved: ResolvedRun, folders: RunFolders) -> tuple[Path | None, int, dict[str, float]]:
    # Again: until the folders were this run's own, another one may have saved.
    resume_from = checkpoint_to_resume(resolved, folders)
    if not torch.cuda.is_available():
        keep_freed_memory()
    trainer = _trainer(resolved, folders)
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
    if resume_from is not None:
        restore_progress(trainer, model, resume_from)
    done_before = trainer.global_step >= resolved.max_steps
    if done_before:
        _say(f"All {resolved.max_steps} steps were done before; nothing is left to train.")
    exported = None
    if not done_before or _lacks_export(resolved):
        with _missing_ranks_named():
            trainer.fit(model)
            assert model.engine is not None
            if trainer.global_step >= resolved.max_steps:
                with liveness.patient():
                    exported = _export(model.engine, resolved)
    liveness.stop()
    return exported, trainer.global_step, {k: float(v) for k, v in trainer.callback_metrics.items()}


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
