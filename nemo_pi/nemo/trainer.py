"""Lightning's trainer as a run, or a stage of one, needs it: devices, callbacks, clock, loggers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from nemo.utils.exp_manager import exp_manager

from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.errors import CheckpointError
from nemo_pi.nemo.folders import RunFolders
from nemo_pi.nemo.loggers import tolerate_failures
from nemo_pi.nemo.progress import StepProgressBar
from nemo_pi.nemo.strategy import MegatronStrategy


class Clock:
    """The wall-clock limit of a run, which its stages share.

    Args:
        run: whose exp_manager.max_time_per_run or trainer.max_time sets it; without, there is none.
    """

    def __init__(self, run: ResolvedRun) -> None:
        given = run.exp_manager.get("max_time_per_run") or run.trainer.get("max_time")
        self._limit: timedelta | None = None
        if given is not None:
            days, hours, minutes, seconds = map(int, str(given).split(":"))
            self._limit = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        self._started = time.monotonic()

    @property
    def left(self) -> timedelta | None:
        """What is left of it, not below 0; None: there is no limit."""
        if self._limit is None:
            return None
        return max(timedelta(), self._limit - timedelta(seconds=time.monotonic() - self._started))

    @property
    def has_run_out(self) -> bool:
        """Whether nothing is left."""
        return self.left == timedelta()


def build_trainer(
    run: ResolvedRun,
    folders: RunFolders,
    ours: Sequence[Callback],
    clock: Clock,
    loggers: Sequence[Logger] | None = None,
) -> Trainer:
    """A trainer, with NeMo's exp_manager around it.

    Args:
        run: what it trains.
        folders: of the run.
        ours: what saves and measures.
        clock: whose time it may still take.
        loggers: of the stage before, to go on with; None makes them.

    Raises:
        CheckpointError: logs cannot be written.
    """
    trainer = _trainer(run, ours, clock)
    settings = folders.exp_manager_settings(run.exp_manager, loggers=loggers is None)
    try:
        exp_manager(trainer, settings)
    except OSError as error:
        raise CheckpointError(
            "exp_manager.exp_dir",
            required="a folder that logs can be written to",
            given=f"{folders.logs}: {error}",
            fix="give another folder, or free some space there",
        ) from error
    if loggers is None:
        tolerate_failures(trainer.loggers)
    else:
        trainer.loggers = list(loggers)  # behind exp_manager, which refuses a trainer that has some
    return trainer


def _trainer(run: ResolvedRun, ours: Sequence[Callback], clock: Clock) -> Trainer:
    arguments: dict[str, Any] = dict(run.trainer)
    show_bar = arguments.pop("enable_progress_bar", True)
    # Megatron handles 16-bit weights itself; Lightning's precision plugins must stay out of it.
    arguments["precision"] = "32-true"
    arguments["max_steps"] = run.last_step  # counted over the whole run
    if not torch.cuda.is_available():  # where Lightning takes a plain number only: neither -1 nor a list
        arguments["devices"] = run.parallel.world_size // (arguments.get("num_nodes") or 1)
    arguments.update(_launched_devices())
    if clock.left is not None:
        arguments["max_time"] = clock.left
    callbacks: list[Any] = [*ours]
    if show_bar:
        title = run.stage.title if run.stage.count > 1 else "training"
        callbacks.append(StepProgressBar(arguments.get("log_every_n_steps") or 10, title))
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
        strategy=MegatronStrategy(run.parallel, run.seed, run.timeout_minutes),
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
