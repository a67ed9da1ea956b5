"""A run measures itself: the tasks of `model.evaluation`, on the ranks that train, between two steps.

What is measured is a function of the weights, and measuring changes nothing of the run: the model is in
evaluation mode, no random number of the training's is drawn, and the next step's gradients begin at zero as
always. What was measured stands in the run's folder and in its loggers' curves; a resumed run reads it there,
measures no step twice and catches up with the one that it was stopped at.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from nemo_pi.config.evaluation_plan import PlannedEvaluation
from nemo_pi.engine.engine import MegatronEngine
from nemo_pi.engine.megatron_scorer import MegatronScorer
from nemo_pi.errors import NemoPiError
from nemo_pi.evaluation.evaluate import run_tasks
from nemo_pi.evaluation.gates import compared
from nemo_pi.evaluation.random_numbers import random_numbers_kept
from nemo_pi.evaluation.report import RESULTS
from nemo_pi.evaluation.results import ModelResults, read_results, write_results
from nemo_pi.evaluation.tasks.base import Measured, Progress
from nemo_pi.nemo.checkpointing import DistributedCheckpointing
from nemo_pi.nemo.module import ContextExtensionModel
from nemo_pi.parallel import launcher, liveness

logger = logging.getLogger(__name__)

FOLDER = "evaluation"
"""Of a run's logs, where results.json is written: a line of its report for each step."""
_STEP = "step "


class Evaluating(Callback):
    """Measures behind every so many steps, and ends the run where its goal is reached.

    Stands behind the callback that saves: a step that is due for both is saved first, so that a long
    measurement puts no training at risk.

    Args:
        planned: what is measured.
        logs: the run's folder.
        saving: knows whether the run was told to stop, which ends a measurement between two batches.
        max_steps: the run's last step, which is measured whatever its number.
    """

    def __init__(
        self, planned: PlannedEvaluation, logs: Path, saving: DistributedCheckpointing, max_steps: int
    ) -> None:
        self.planned, self.saving, self.max_steps = planned, saving, max_steps
        self.path = logs / FOLDER / RESULTS
        self.measured: list[ModelResults] = []
        self._started = False
        self.reached = False
        """Whether the run has come to its goal."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes up what was measured before, and measures the step that the run was stopped at."""
        self._started = True
        self.measured = measured_before(self.path, trainer.global_step)
        self._measure_if_due(trainer, pl_module)

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the last step of a run that was ended between this step's checkpoint and its measurement.

        Lightning starts no training where no step is left.
        """
        if not self._started:
            self.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures where it is time."""
        if not self.saving.stopped:
            self._measure_if_due(trainer, pl_module)

    def _measure_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, settings = trainer.global_step, self.planned.settings
        if not settings.is_due(step, self.max_steps):
            return
        if step_of(self.measured) != step:
            assert isinstance(pl_module, ContextExtensionModel) and pl_module.engine is not None
            try:
                self._measure(trainer, pl_module.engine, step)
            except _ToldToStop:
                self._say(f"step {step}: told to stop; it is measured when the run goes on")
                # It has been asked already behind this step, but before that was so.
                self.saving.on_train_batch_end(trainer, pl_module, None, None, 0)
                return
        self._end_at_goal(trainer, step)

    def _measure(self, trainer: Trainer, engine: MegatronEngine, step: int) -> None:
        # Cached generation has been tried with local layers only.
        cached = not engine.settings.build.transformer_engine
        scorer = MegatronScorer(engine, f"{_STEP}{step}", use_cache=cached)
        with liveness.patient(), random_numbers_kept(), self._bar(step) as progress:
            result = run_tasks(scorer, self.planned.planned, self.planned.context, progress=progress)
        self.measured.append(result)
        if launcher.is_global_zero():
            keep(self.measured, self.path)
        for name, outcome in result.tasks.items():
            curves = {f"{FOLDER}/{name}/{key}": value for key, value in outcome.scalars().items()}
            for each in trainer.loggers:
                each.log_metrics(curves, step=step)
        self._say(f"step {step}: {'; '.join(self._lines(result))}")

    def _lines(self, result: ModelResults) -> Iterator[str]:
        for item in self.planned.planned:
            task = type(item.task)
            outcome = result.tasks[task.name]
            model = Measured(result.name, result.original_window, result.target_window, outcome)
            table = task.table([model])
            cells = zip(table.header[1:], table.lines[0][1:], strict=True)
            yield f"{task.title}: {', '.join(f'{name} {cell}' for name, cell in cells)}"

    def _end_at_goal(self, trainer: Trainer, step: int) -> None:
        self.reached = reaches(self.planned, self.measured, step)
        if self.reached:
            trainer.should_stop = True
            goal = self.planned.settings
            said = "; ".join(text for _, text in compared(self.measured[-1], goal.stop_at, goal.tasks))
            self._say(f"step {step}: goal reached ({said}): the run ends here, as finished")

    @contextmanager
    def _bar(self, step: int) -> Iterator[Progress]:
        """Counts tokens below the training's own bar, and listens for requests to stop between batches."""
        shown = launcher.is_global_zero() and sys.stderr.isatty()
        with tqdm(
            total=self.planned.num_tokens, unit="token", unit_scale=True, leave=False, disable=not shown
        ) as bar:

            def progress(what: str, done: int, _: int) -> None:
                bar.set_description(f"step {step}: {what}", refresh=False)
                bar.update(done - bar.n)
                if self.saving.is_told_to_stop():
                    raise _ToldToStop

            yield progress

    def _say(self, what: str) -> None:
        if launcher.is_global_zero():
            logger.info(what)


class _ToldToStop(Exception):
    """Leaves a measurement that a request to stop has made vain; every rank raises it at the same batch."""


def step_of(measured: list[ModelResults]) -> int:
    """The last step that was measured; 0 where none was."""
    return int(measured[-1].name.removeprefix(_STEP)) if measured else 0


def state_of(planned: PlannedEvaluation, logs: Path, step: int, max_steps: int) -> tuple[bool, bool]:
    """Of a run that would go on from this step: whether its goal was reached there, and whether the step has
    still to be measured."""
    measured = measured_before(logs / FOLDER / RESULTS, step)
    owed = planned.settings.is_due(step, max_steps) and step_of(measured) != step
    return reaches(planned, measured, step), owed


def reaches(planned: PlannedEvaluation, measured: list[ModelResults], step: int) -> bool:
    """Whether the goal was reached by what was measured behind this step."""
    settings = planned.settings
    if not settings.stop_at or step_of(measured) != step or not step:
        return False
    return all(passes for passes, _ in compared(measured[-1], settings.stop_at, settings.tasks))


def measured_before(path: Path, step: int) -> list[ModelResults]:
    """What a run has measured up to a step; a file that cannot be read is said and left out.

    What it measured behind that step belongs to weights that are gone.
    """
    if not path.exists():
        return []
    try:
        found = read_results(path)
        return [result for result in found if 0 < step_of([result]) <= step]
    except (NemoPiError, ValueError) as error:
        if launcher.is_global_zero():
            logger.warning(f"{path} cannot be read and is written anew: {error}")
        return []


def keep(measured: list[ModelResults], path: Path) -> None:
    """Writes what was measured; a disk that is full costs this copy, not the run."""
    try:
        write_results(measured, path)
    except OSError as error:
        logger.warning(f"{path} cannot be written now ({error}); the run goes on")
