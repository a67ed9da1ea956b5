"""nemo_pi as its users run it: ContextExtensionModel under Lightning's Trainer, data from indexed files.

Left out of examples/extend_context.py's run: the progress bar, TensorBoard and checkpoints, which the
other contestants do without as well.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.training.contestants.nemo_pi_yaml import resolved_run
from benchmarks.training.job import Job
from benchmarks.training.pacer import Pacer
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.settings import self_contained_model_config
from nemo_pi.nemo.strategy import MegatronStrategy
from nemo_pi.parallel.cpu_memory import keep_freed_memory

from lightning.pytorch import Callback, LightningModule, Trainer  # isort: skip


class PacedSteps(Callback):
    """Hands every finished step to the pacer and ends the run when it says so."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Loaded: waits for the first step."""
        trainer.should_stop = not self.pacer.ready()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Waits for the next one."""
        loss = float(trainer.callback_metrics["reduced_train_loss"])
        trainer.should_stop = not self.pacer.stepped(loss)


def run(job: Job, pacer: Pacer) -> None:
    """Races."""
    resolved = resolved_run(job)
    if not torch.cuda.is_available():
        keep_freed_memory()
    arguments = {**resolved.trainer, "precision": "32-true", "logger": False}
    trainer = Trainer(
        **arguments,
        strategy=MegatronStrategy(resolved.parallel, resolved.seed),
        callbacks=[PacedSteps(pacer)],
        enable_model_summary=False,
    )
    trainer.fit(ContextExtensionModel(self_contained_model_config(resolved), trainer, run=resolved))
