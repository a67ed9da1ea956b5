"""Going on with a run: from the newest of its checkpoints that is whole, at that one's step."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from lightning.pytorch import Trainer

from nemo_pi.checkpoint.base import AdapterRecord, base_sha256, check_base
from nemo_pi.checkpoint.manifest import read_manifest
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.checkpoint.verified import newest_whole
from nemo_pi.config.resolved import ResolvedRun, Stage
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.guard import StepGuard
from nemo_pi.engine.state import check_finite, load_engine, load_weights_into_training
from nemo_pi.errors import CheckpointError, TrainingError
from nemo_pi.parallel import launcher

logger = logging.getLogger(__name__)

GUARD = "step_guard"
"""Where the manifest of a checkpoint keeps what was seen of bad steps."""


class Resumable(Protocol):
    """What of a model knows how far its run has come; ContextExtensionModel, which imports this file."""

    consumed_samples: int
    """Samples of all steps so far."""

    @property
    def trainer(self) -> Trainer:
        """Lightning's, whose counts are set back."""

    @property
    def guard(self) -> StepGuard:
        """What was seen of bad steps."""


class EarlierStage(Exception):
    """The newest whole checkpoint is from before the stage that was to go on: that stage has to come first.

    Args:
        folder: the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def load_newest(model: Resumable, engine: MegatronEngine, last: Path, stage: Stage) -> Path:
    """Weights, optimizer and progress from the newest checkpoint that is whole and holds numbers.

    Args:
        model: whose progress, and its trainer's, is set back where an older one is taken.
        engine: after start_training.
        last: the newest by its size and manifest.
        stage: which stage is to go on; at its first step it may leave the optimizer's states behind.

    Returns:
        The one that was taken.

    Raises:
        CheckpointError: none of them can be read.
        EarlierStage: all that can are of stages before.
    """
    passed_over: list[Path] = []
    while True:
        folder = newest_whole(last, passed_over)
        step = read_summary(folder).global_step
        if step < stage.first_step:
            raise EarlierStage(folder)
        begins = stage.number > 0 and step == stage.first_step
        if begins and stage.reset_optimizer:
            load_weights_into_training(engine, folder)
        else:
            load_engine(engine, folder, check_contents=False)
        try:
            check_finite(engine, str(folder))
            break
        except (TrainingError, CheckpointError) as error:
            passed_over.append(folder)
            _warn(f"Passing over a checkpoint that was ruined before it was saved: {error.given}")
    if folder != last:
        restore_progress(model.trainer, model, folder)
    model.guard.restore(read_manifest(folder).get(GUARD))
    if begins:
        model.guard.begin_stage()
    return folder


def known_base(run: ResolvedRun, resume_from: Path | None) -> AdapterRecord:
    """What checkpoints say of this run's adapters and of their base; all ranks call it together.

    Args:
        run: with adapters.
        resume_from: the checkpoint that it goes on from, if any.

    Raises:
        CheckpointError: its adapters were trained beside other weights than restore_from_path holds.
    """
    lora, base = run.engine.build.lora, run.checkpoint
    assert lora is not None and base is not None, "adapters need weights to stand beside"
    if resume_from is not None:
        saved = AdapterRecord.from_manifest(read_manifest(resume_from), resume_from)
        assert saved is not None, "checkpoint_to_resume lets no other pass"
        check_base(saved, base.path, resume_from)
        return replace(saved, base_path=base.path.resolve())
    return AdapterRecord(lora, base.path.resolve(), base_sha256(base.path))


def restore_progress(trainer: Trainer, model: Resumable, folder: Path) -> None:
    """Counts on from a checkpoint's step, through the state that Lightning's own checkpoints hold."""
    summary = read_summary(folder)
    model.consumed_samples = summary.consumed_samples
    loop = trainer.fit_loop.epoch_loop
    state = loop.state_dict()
    # What trainer.global_step and max_steps read; what val_check_interval divides; the axis of loggers.
    for progress in ("manual_optimization.optim_step_progress", "batch_progress"):
        state[progress]["total"] = dict.fromkeys(state[progress]["total"], summary.global_step)
    state["state_dict"]["_batches_that_stepped"] = summary.global_step
    loop.load_state_dict(state)
    # The loader begins behind the samples consumed: there is no epoch in whose middle Lightning must restart.
    loop.restarting = False
    if launcher.is_global_zero():
        logger.info(f"Going on from {folder}: step {summary.global_step}.")


def _warn(what: str) -> None:
    if launcher.is_global_zero():
        logger.warning(what)
