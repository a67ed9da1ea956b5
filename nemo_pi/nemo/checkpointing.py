"""When a run saves itself: every so many steps, at its end, and when it is told to stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from nemo_pi.checkpoint import base
from nemo_pi.checkpoint.retention import checkpoint_folder
from nemo_pi.checkpoint.verified import prune_together, remember
from nemo_pi.engine.state import save_engine
from nemo_pi.nemo import backends, stages
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.resuming import GUARD
from nemo_pi.nemo.sample_settings import RECORD, sample_settings
from nemo_pi.nemo.stopping import StopRequests
from nemo_pi.parallel import groups, launcher, liveness

logger = logging.getLogger(__name__)


class DistributedCheckpointing(Callback):
    """Saves weights, optimizer and progress through Megatron's distributed checkpoints.

    Args:
        root: folder of the run's checkpoints.
        every: optimizer steps between checkpoints; 0 saves at the end only.
        keep: newest checkpoints to keep; 0 keeps all.
        requests: where requests to stop are noted; None: in one of its own.
    """

    def __init__(self, root: Path, every: int, keep: int, requests: StopRequests | None = None) -> None:
        self.root, self.every, self.keep = root, every, keep
        self._last_saved = -1
        self._requests = StopRequests() if requests is None else requests
        self.stopped = False
        """Whether the run was told to stop."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to listen for requests to stop."""
        self._requests.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time, or when any rank was told to stop."""
        step = trainer.global_step
        self._stop_if_told(trainer, f"saving step {step} first")
        if self.stopped or (self.every and step % self.every == 0):
            with liveness.patient():
                self._save(trainer, pl_module)
            # Told so while it was saved: this step will do.
            self._stop_if_told(trainer, f"step {step} is saved")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step, if that has not happened yet."""
        with liveness.patient():
            self._save(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._requests.give_back()

    def is_told_to_stop(self) -> bool:
        """Whether any rank was told to stop; all ranks call it together."""
        flag = torch.tensor([float(self._requests.asked is not None)], device=groups.device())
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def _stop_if_told(self, trainer: Trainer, consequence: str) -> None:
        """Ends training behind this step where any rank was told to stop; all ranks call it together."""
        if not self.is_told_to_stop() or self.stopped:
            return
        self.stopped = trainer.should_stop = True
        every = trainer.val_check_interval
        if not (isinstance(every, int) and trainer.global_step % every == 0):
            # Lightning validates at every end; whoever was told to stop has no time for it.
            trainer.limit_val_batches = 0
        if launcher.is_global_zero():
            logger.info(f"Told to stop ({self._requests.asked or 'another rank'}): {consequence}.")

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
            GUARD: pl_module.guard.state(),
            stages.RECORD: stages.record_of(pl_module.run.stage),
        }
        if pl_module.adapter_record is not None:
            meta[base.RECORD] = pl_module.adapter_record.to_dict()
        tokenizer = pl_module.run.tokenizer
        folder = checkpoint_folder(self.root, step)
        save_engine(
            pl_module.engine,
            folder,
            meta,
            tokenizer_path=None if tokenizer is None else tokenizer.files,
            # It comes from the step: what lies there is damaged, was passed over, or is not this run's.
            clear_name=True,
        )
        remember(folder)
        self._last_saved = step
        if self.keep:
            prune_together(self.root, self.keep)
