"""When a run saves itself: every so many steps, at its end, and when it is told to stop."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_pi.checkpoint.retention import prune_checkpoints
from nemo_pi.engine.state import save_engine
from nemo_pi.nemo import backends
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.sample_settings import RECORD, sample_settings
from nemo_pi.parallel import groups, launcher

logger = logging.getLogger(__name__)

# What Slurm (--signal), Kubernetes and a terminal send ahead of the end.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return root / f"step_{step:08d}"


class DistributedCheckpointing(Callback):
    """Saves weights, optimizer and progress through Megatron's distributed checkpoints.

    Args:
        root: folder of the run's checkpoints.
        every: optimizer steps between checkpoints; 0 saves at the end only.
        keep: newest checkpoints to keep; 0 keeps all.
    """

    def __init__(self, root: Path, every: int, keep: int) -> None:
        self.root, self.every, self.keep = root, every, keep
        self._last_saved = -1
        self._asked_to_stop = False
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to listen for stop signals, in place of Lightning.

        Its own handler raises on the ranks that heard the signal while the others go on to their next
        collective operation; ours lets all ranks finish the same step.
        """
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time, or when any rank was told to stop."""
        step = trainer.global_step
        stop = self._any_rank_stops()
        if stop:
            trainer.should_stop = True
            if launcher.is_global_zero():
                logger.info(f"Told to stop: saving step {step} first.")
        if stop or (self.every and step % self.every == 0):
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step, if that has not happened yet."""
        self._save(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, previous in self._previous.items():
            # Lightning has restored its own by now, unless training ended early.
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, previous)
        self._previous.clear()

    def _on_signal(self, number: int, frame: Any) -> None:
        self._asked_to_stop = True

    def _any_rank_stops(self) -> bool:
        flag = torch.tensor([float(self._asked_to_stop)], device=groups.device())
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if step == self._last_saved:
            return
        assert isinstance(pl_module, ContextExtensionModel) and pl_module.engine is not None
        meta = {
            "shape": pl_module.run.shape.to_dict(),
            "extension": pl_module.run.extension.to_dict(),
            "window_source": pl_module.run.window_source,
            "global_step": step,
            "consumed_samples": pl_module.consumed_samples,
            "source_config": pl_module.source_config,
            RECORD: sample_settings(pl_module.run),
            backends.RECORD: pl_module.engine.backends.names(),
        }
        tokenizer = pl_module.run.tokenizer
        save_engine(
            pl_module.engine,
            checkpoint_folder(self.root, step),
            meta,
            tokenizer_path=None if tokenizer is None else tokenizer.files,
        )
        self._last_saved = step
        if self.keep and launcher.is_global_zero():
            prune_checkpoints(self.root, self.keep)
