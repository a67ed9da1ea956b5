"""The report of several evaluated models: a terminal table, results.json, a Markdown summary and plots."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_pi.errors import DataError
from nemo_pi.evaluation.results import ModelResults, write_results
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.tasks.registry import TaskType, task_type
from nemo_pi.evaluation.text_tables import Table, aligned, markdown

COLUMNS = 100
RESULTS = "results.json"


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written."""

    folder: Path
    """What holds the others."""
    results: Path
    """results.json, which `results.read_results` reads."""
    summary: Path
    """report.md, which shows the plots."""
    plots: tuple[Path, ...]
    """A picture named after each task (perplexity.png) that had something to draw."""


def measured_tasks(models: Sequence[ModelResults]) -> list[TaskType]:
    """Return every task that some model has a result of, in the order in which they were run."""
    return [task_type(name) for name in dict.fromkeys(name for model in models for name in model.tasks)]


def side_by_side(task: TaskType, models: Sequence[ModelResults]) -> list[Measured[Any]]:
    """Return all models as a task's table and plot take them."""
    return [
        Measured(model.name, model.original_window, model.target_window, model.tasks.get(task.name))
        for model in models
    ]


def build_tables(models: Sequence[ModelResults]) -> list[Table]:
    """Return each task's table, only of tasks that some model has results of."""
    return [task.table(side_by_side(task, models)) for task in measured_tasks(models)]


def describe_windows(models: Sequence[ModelResults]) -> str:
    """Say what windows the models have, once if they agree."""
    pairs = {(model.original_window, model.target_window) for model in models}
    if len(pairs) == 1:
        ((original, target),) = pairs
        return f"Original window {original:,} tokens, evaluated up to {target:,}"
    return "; ".join(f"{m.name}: {m.original_window:,} → {m.target_window:,} tokens" for m in models)


def describe_protocols(models: Sequence[ModelResults]) -> list[str]:
    """Say how the numbers were measured: one line per task, or per model where models differ."""
    lines = []
    for task in measured_tasks(models):
        texts = {
            model.name: model.tasks[task.name].protocol.get("summary", "unnamed protocol")
            for model in models
            if task.name in model.tasks
        }
        if len(set(texts.values())) == 1:
            lines.append(f"{task.title}: {next(iter(texts.values()))}")
        else:
            lines.extend(f"{task.title} of {name}: {text}" for name, text in texts.items())
    return lines


def render_text(models: Sequence[ModelResults], columns: int = COLUMNS) -> str:
    """Return the report as plain text, at most `columns` wide, ending in a line break.

    Raises:
        DataError: no models.
    """
    _require_some(models)
    parts = [describe_windows(models)]
    parts += ["\n".join([table.title, *aligned(table, columns)]) for table in build_tables(models)]
    parts.append(
        "\n".join(textwrap.fill(line, columns, subsequent_indent="  ") for line in describe_protocols(models))
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def render_markdown(models: Sequence[ModelResults], title: str, plots: Sequence[Path] = ()) -> str:
    """Return the report as Markdown, with the plots as pictures beside it.

    Raises:
        DataError: no models.
    """
    _require_some(models)
    parts = [f"# {title}", f"{describe_windows(models)}."]
    for table in build_tables(models):
        parts += [f"## {table.title}", "\n".join(markdown(table))]
    parts += [f"![{plot.stem} by context length]({plot.name})" for plot in plots]
    protocols = describe_protocols(models)
    if protocols:
        parts += ["## How it was measured", "\n".join(f"- {line}" for line in protocols)]
    return "\n\n".join(parts) + "\n"


def write_report(
    models: Sequence[ModelResults],
    folder: str | Path,
    *,
    title: str = "Context extension: results",
    plots: bool = True,
) -> ReportFiles:
    """Write results.json, report.md and, unless told otherwise, the plots into a folder (made if need be).

    results.json comes first: whatever fails later, the measurements are safe.

    Raises:
        DataError: no models. BackendUnavailableError: plots asked for without matplotlib.
    """
    _require_some(models)
    folder = Path(folder)
    results = write_results(models, folder / RESULTS)
    drawn = [
        task.plot(side_by_side(task, models), folder / f"{task.name}.png")
        for task in (measured_tasks(models) if plots else ())
    ]
    pictures = [path for path in drawn if path is not None]
    summary = folder / "report.md"
    summary.write_text(render_markdown(models, title, pictures), encoding="utf-8")
    return ReportFiles(folder, results, summary, tuple(pictures))


def _require_some(models: Sequence[ModelResults]) -> None:
    if not models:
        raise DataError(
            "models", required="at least one evaluated model", given="none", fix="evaluate a model"
        )
