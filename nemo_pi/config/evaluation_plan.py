"""What a run will measure while it trains: each task planned before the first step, with its cost.

Tasks are imported where a run asks for some: they import what they measure with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_pi.checkpoint.end_tokens import stated_end_ids
from nemo_pi.config.evaluation import SECTION, EvaluationSettings
from nemo_pi.config.plan_model import Rows
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.data.heldout import read_documents
from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import ConfigError, NemoPiError
from nemo_pi.units import plural, short

if TYPE_CHECKING:
    from nemo_pi.evaluation.evaluate import PlannedTask
    from nemo_pi.evaluation.tasks.base import TaskContext


@dataclass(frozen=True)
class PlannedEvaluation:
    """Its tasks, checked against the run's tokenizer and documents; nothing of a model is needed."""

    settings: EvaluationSettings
    """As resolved."""
    context: TaskContext
    """What the tasks share."""
    planned: list[PlannedTask]
    """Each with its cost and protocol."""

    @property
    def num_tokens(self) -> int:
        """Tokens read and generated each time."""
        return sum(item.plan.cost.tokens for item in self.planned)


def plan_evaluation(run: ResolvedRun) -> PlannedEvaluation | None:
    """Plan what the run measures; None where that is nothing, or in a dry run that has no tokenizer yet.

    Raises:
        ConfigError, DataError: what a task lacks, or cannot do with this tokenizer and these documents.
    """
    settings, tokens = run.evaluation, run.tokenizer
    if settings is None:
        return None
    if tokens is None or tokens.library is None:
        if run.dry_run:
            return None
        raise ConfigError(
            "model.tokenizer.library",
            required=f"a tokenizer: {SECTION} reads and writes text",
            given="none",
            fix="model.tokenizer.library=huggingface model.tokenizer.model=FOLDER, or leave the section out",
        )
    from nemo_pi.evaluation.tasks.base import TaskContext

    try:
        tokenizer = build_tokenizer(tokens.library, tokens.model, tokens.type)
    except NemoPiError as error:
        raise error.respelled({"tokenizer": "model.tokenizer"}) from error
    window = run.extension.target_window
    try:
        texts = [] if settings.documents is None else read_documents(settings.documents, tokenizer, window)
    except NemoPiError as error:
        raise error.respelled({"documents": f"{SECTION}.documents"}) from error
    ends = () if run.checkpoint is None else stated_end_ids(run.checkpoint.path)
    if not ends and tokenizer.eod_id is not None:
        ends = (tokenizer.eod_id,)
    context = TaskContext(
        tokenizer,
        texts,
        run.extension.original_window,
        window,
        bool(tokenizer.start_ids) if settings.add_bos is None else settings.add_bos,
        # Each replica is to have as many windows at a time as it would have alone.
        settings.batch_tokens * run.parallel.dp,
        ends,
    )
    return PlannedEvaluation(settings, context, list(_planned(settings, context)))


def _planned(settings: EvaluationSettings, context: TaskContext) -> Iterator[PlannedTask]:
    from nemo_pi.config.tasks import located
    from nemo_pi.evaluation.evaluate import PlannedTask

    for task in settings.tasks:
        try:
            yield PlannedTask(task, task.plan(context))
        except NemoPiError as error:
            raise _of_a_run(located(error, task, f"{SECTION}.tasks")) from error


def _of_a_run(error: NemoPiError) -> NemoPiError:
    """A task's error as it is mended here: its keys are examples/evaluate.py's."""
    keys = {
        "documents": f"{SECTION}.documents",
        "add_bos": f"{SECTION}.add_bos",
        "target_window": "model.max_position_embeddings",
    }
    own = error.respelled(keys)
    fix = re.sub(r"(?<![\w.])(documents|target_window)\b", lambda found: keys[found[1]], own.fix)
    fix = re.sub(r"(?<![\w.])tasks\.", f"{SECTION}.tasks.", fix)
    return type(own)(own.field, required=own.required, given=own.given, fix=fix)


def evaluation_rows(run: ResolvedRun, planned: PlannedEvaluation | None) -> Rows:
    """When, what at which cost, and what ends the run; none where nothing is measured."""
    settings = run.evaluation
    if settings is None:
        return []
    times = settings.times(run.max_steps)
    rows = [("measured", f"every {plural(settings.every, 'step')} and at the end: {_times(times)} in all")]
    if planned is None:
        names = ", ".join(task.name for task in settings.tasks)
        rows.append(("tasks", f"{names}; their cost is known when a tokenizer is"))
    else:
        rows += [(item.task.name, f"{item.plan.cost.describe()}, each time") for item in planned.planned]
        # What a step of training takes beside its forward pass is why the two are not added up.
        every = planned.num_tokens * times
        trained = run.tokens_per_step * run.max_steps
        rows.append(
            ("in all", f"{short(every)} tokens, forward passes alone, beside {short(trained)} trained")
        )
    if settings.stop_at:
        goal = " and ".join(f"{name} {value:,.6g}" for name, value in settings.stop_at.items())
        rows.append(("ends early", f"where {goal} is reached"))
    return rows


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
