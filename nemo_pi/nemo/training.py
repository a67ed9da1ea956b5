"""Training: NeMo's exp_manager and Lightning's trainer around the engine, from checks to exports.

A stage is a training of its own that begins with the last checkpoint of the one before, as a run goes on that
was stopped there: what resumes and what was never stopped take the same way.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from nemo_pi.checkpoint.retention import checkpoint_folder
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.config.evaluation_plan import PlannedEvaluation
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.nemo.checkpointing import DistributedCheckpointing
from nemo_pi.nemo.evaluating import Evaluating, state_of
from nemo_pi.nemo.export import export_engine, export_engine_adapters
from nemo_pi.nemo.folders import RunFolders, sole_writer_of
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.nemo.preflight import check_before_training, check_folders, stage_to_resume
from nemo_pi.nemo.resuming import EarlierStage, restore_progress
from nemo_pi.nemo.settings import self_contained_model_config
from nemo_pi.nemo.stages import stage_of
from nemo_pi.nemo.stopping import StopRequests
from nemo_pi.nemo.trainer import Clock, build_trainer
from nemo_pi.parallel import groups, launcher, liveness, orphans
from nemo_pi.parallel.cpu_memory import keep_freed_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    exported: tuple[Path, ...]
    """Hugging Face folders, in the order of the stages that were asked for one and came to their end."""
    global_step: int
    """The step that was reached."""
    finished: bool
    """Whether it is the run's last one, or the one that reached `model.evaluation.stop_at`."""
    metrics: dict[str, float]
    """The last value of each."""


def train(
    stages: Sequence[ResolvedRun],
    folders: RunFolders,
    evaluations: Sequence[PlannedEvaluation | None] = (None,),
) -> Trained:
    """Trains to the last step of the last stage, from the run's latest checkpoint; every rank calls it.

    Args:
        stages: the validated run.
        folders: where it writes.
        evaluations: what each stage measures meanwhile.

    Raises:
        NemoPiError: before anything is allocated or written, wherever it can be known by then.
    """
    orphans.watch_launcher()
    stage_to_resume(stages, folders)
    check_before_training(stages)
    for run in stages:
        check_folders(run, folders)
    with sole_writer_of(stages, folders):
        return _Training(stages, folders, evaluations).run()


class _Training:
    """Stages one after the other, with what they share."""

    def __init__(
        self,
        stages: Sequence[ResolvedRun],
        folders: RunFolders,
        evaluations: Sequence[PlannedEvaluation | None],
    ) -> None:
        self._stages, self._folders, self._evaluations = stages, folders, evaluations
        self._requests = StopRequests()
        self._clock = Clock(stages[0])
        self._loggers: Sequence[Logger] | None = None
        self._exported: list[Path] = []

    def run(self) -> Trained:
        # Again: until the folders were this run's own, another one may have saved.
        number, resume_from = stage_to_resume(self._stages, self._folders)
        if not torch.cuda.is_available():
            keep_freed_memory()
        while True:
            try:
                trainer, step, reached = self._train(number, resume_from)
            except EarlierStage as earlier:
                number, resume_from = stage_of(self._stages, earlier.folder), earlier.folder
                continue
            ended, last = self._stages[number].last_step, number + 1 == len(self._stages)
            if last or reached or step < ended or self._told_to_stop():
                break
            number, resume_from = number + 1, checkpoint_folder(self._folders.checkpoints, ended)
            del trainer
            gc.collect()  # the old model, which is part of cycles, before the new one
        self._requests.give_back()
        liveness.stop()
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        finished = reached or step >= self._stages[-1].last_step
        return Trained(tuple(self._exported), step, finished, metrics)

    def _train(self, number: int, resume_from: Path | None) -> tuple[Trainer, int, bool]:
        """Trains one stage to its end, its goal, or until it is told to stop, and exports it.

        Returns:
            Its trainer, the step it has come to, and whether that step reached the run's goal.
        """
        run, evaluation = self._stages[number], self._evaluations[number]
        folders = self._folders
        saving = DistributedCheckpointing(
            folders.checkpoints, folders.save_every, folders.keep, self._requests
        )
        measuring = None
        if evaluation is not None:
            measuring = Evaluating(evaluation, folders.logs, saving, run.last_step)
        ours = [saving] if measuring is None else [saving, measuring]
        trainer = build_trainer(run, folders, ours, self._clock, self._loggers)
        self._loggers = trainer.loggers
        model = ContextExtensionModel(
            self_contained_model_config(run), trainer, run=run, resume_from=resume_from
        )
        # Not trainer.global_step: before it fits, Lightning does not know that the model steps by itself.
        step = 0
        if resume_from is not None:
            restore_progress(trainer, model, resume_from)
            step = read_summary(resume_from).global_step
        reached = owed = False
        if evaluation is not None:
            reached, owed = state_of(evaluation, folders.logs, step, run.last_step)
        done_before = reached or step >= run.last_step
        _announce(run, step, reached)
        if not done_before or owed or _lacks_export(run):
            with _missing_ranks_named():
                trainer.fit(model)
                assert model.engine is not None
                step = trainer.global_step
                if measuring is not None:
                    measuring.catch_up(trainer, model)
                    reached = measuring.reached
                if run.stage.number + 1 < run.stage.count:
                    self._requests.listen()  # Lightning has given the signals back
                if reached or step >= run.last_step:
                    with liveness.patient():
                        self._exported += _export(model.engine, run)
        return trainer, step, reached

    def _told_to_stop(self) -> bool:
        """Whether any rank was told to stop, or time is up; all ranks ask together, between two stages."""
        asked = self._requests.asked is not None or self._clock.has_run_out
        if not dist.is_initialized():
            return asked  # nothing was trained: all stages so far were done before
        flag = torch.tensor([float(asked)], device=groups.device())
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())


def _export(engine: MegatronEngine, run: ResolvedRun) -> list[Path]:
    """What the YAML asks for; the merged model's folder, or that of adapters where it is the only one."""
    adapters, path = run.export.peft_path, run.export.hf_path
    exported = None if adapters is None else export_engine_adapters(engine, run, Path(adapters))
    exported = exported if path is None else export_engine(engine, run, Path(path))
    return [] if exported is None else [exported]


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


def _lacks_export(run: ResolvedRun) -> bool:
    """Whether the end of a stage was cut off between its last checkpoint and its export."""
    return not all(path.exists() for path in run.export.paths)


def _announce(run: ResolvedRun, step: int, reached: bool) -> None:
    """Says on the first rank which stage begins or goes on, and where nothing is left of it."""
    if not launcher.is_global_zero():
        return
    several = run.stage.count > 1
    if reached or step >= run.last_step:
        of = f" of {run.stage.title}" if several else ""
        what = "The goal was reached" if reached else f"All {run.max_steps} steps{of} were done"
        logger.info(f"{what} before; nothing is left to train.")
    elif several:
        title = run.stage.title.capitalize()
        logger.info(f"{title}: steps {step + 1} to {run.last_step}, {run.training_length} tokens a sample.")
