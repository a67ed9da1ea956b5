"""The plan of a run with stages: the first one whole, of the others what differs from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nemo_pi.config.evaluation_plan import PlannedEvaluation
from nemo_pi.config.plan import plan_sections, render_plan, section_lines
from nemo_pi.config.plan_model import Rows
from nemo_pi.config.resolved import ResolvedRun
from nemo_pi.units import grouped, plural, short

_WHOLE = "Context window"
_ALWAYS = ("tokens", "steps", "learning rate", "total")
"""Rows that every stage shows, whether or not they differ."""
_DISK = "  disk"
"""What is free changes while the plan is written; what a checkpoint takes is the same in all stages."""


def render_stages(
    stages: Sequence[ResolvedRun],
    *,
    logs: Path | None = None,
    checkpoints: Path | None = None,
    evaluations: Sequence[PlannedEvaluation | None] | None = None,
) -> str:
    """What a run will do, stage by stage; without stages as render_plan has it.

    Args:
        stages: from resolve_stages.
        logs, checkpoints: as render_plan's.
        evaluations: what plan_evaluation made of each stage.

    Raises:
        BackendUnavailableError: as render_plan.
    """
    evaluations = evaluations or [None] * len(stages)
    if len(stages) == 1:
        return render_plan(stages[0], logs=logs, checkpoints=checkpoints, evaluation=evaluations[0])
    steps, tokens = stages[-1].last_step, sum(run.max_steps * run.tokens_per_step for run in stages)
    lines = [
        f"Plan of {stages[0].name}: {plural(len(stages), 'stage')}, {grouped(steps)} steps, "
        f"{short(tokens)} tokens"
    ]
    before: dict[str, Rows] = {}
    for run, evaluation in zip(stages, evaluations, strict=True):
        sections = plan_sections(run, logs, checkpoints, evaluation)
        title = f"{run.stage.title.capitalize()}: {_summary(run)}"
        lines += ["", title, "=" * len(title), *section_lines(_differing(sections, before))]
        before = sections
    return "\n".join(lines)


def _summary(run: ResolvedRun) -> str:
    """Which steps a stage takes, and what it takes over from those before."""
    first, last = run.stage.first_step + 1, run.last_step
    text = f"steps {grouped(first)} to {grouped(last)}"
    if run.stage.number == 0:
        return text
    adam = "Adam begins anew" if run.stage.reset_optimizer else "Adam's state goes on"
    return f"{text}, {adam}, data from sample {grouped(run.stage.first_sample)} on"


def _differing(sections: dict[str, Rows], before: dict[str, Rows]) -> dict[str, Rows]:
    """Rows that are not as they were a stage before, and those that every stage shows."""
    if not before:
        return sections
    kept = {
        title: [
            row
            for row in rows
            if title == _WHOLE or row[0] in _ALWAYS or (row not in before[title] and row[0] != _DISK)
        ]
        for title, rows in sections.items()
    }
    return {title: rows for title, rows in kept.items() if rows}
