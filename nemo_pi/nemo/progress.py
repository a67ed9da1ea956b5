"""The progress bar: optimizer steps, loss, learning rate, tokens/s, time left."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm


class StepProgressBar(ProgressBar):
    """One bar over all optimizer steps of the run; a resumed run starts where it left off.

    On a terminal it redraws in place; in a log file it prints a line every `log_every` steps.
    """

    def __init__(self, log_every: int = 10, title: str = "training") -> None:
        super().__init__()
        self._enabled = True
        self._log_every = max(1, log_every)
        self._title = title
        self._bar: Any = None

    def disable(self) -> None:
        """Silences the bar (Lightning calls it on all ranks but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Shows the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar at the current step."""
        super().on_train_start(trainer, pl_module)
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=self._title,
            unit="step",
            disable=not self._enabled,
            file=sys.stderr,
            dynamic_ncols=terminal,
            ncols=None if terminal else 120,
            mininterval=0.5 if terminal else 1e9,
            maxinterval=1e9,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar by one step and shows the newest figures."""
        if self._bar is None or self._bar.disable:
            return
        metrics = trainer.progress_bar_metrics
        shown = {
            "loss": f"{metrics.get('reduced_train_loss', float('nan')):.4f}",
            "lr": f"{metrics.get('lr', 0.0):.2e}",
            "tokens/s": f"{metrics.get('tokens_per_second_per_gpu', 0.0) * trainer.world_size:,.0f}",
        }
        if "val_loss" in metrics:
            shown["val"] = f"{metrics['val_loss']:.4f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)
        if not sys.stderr.isatty() and trainer.global_step % self._log_every == 0:
            self._bar.refresh()
            sys.stderr.write("\n")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
