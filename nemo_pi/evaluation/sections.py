"""What a report says, in order, before it is laid out: text, Markdown and HTML show the same sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_pi.evaluation.charts import Chart
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.tasks.base import Measured
from nemo_pi.evaluation.tasks.registry import TaskType, task_type
from nemo_pi.evaluation.text_tables import Table
from nemo_pi.evaluation.verdicts import Verdict


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order."""

    heading: str
    """A question, or what is shown."""
    text: str = ""
    """A paragraph."""
    verdicts: tuple[Verdict, ...] = ()
    """Answers to the question, of one task each."""
    sources: tuple[str, ...] = ()
    """Titles of those tasks, in the same order."""
    charts: tuple[Chart, ...] = ()
    """Drawn beside those of the verdicts."""
    pictures: tuple[Path, ...] = ()
    """Files that Markdown shows; HTML holds those of sections without charts."""
    tables: tuple[Table, ...] = ()
    """Numbers."""
    protocols: tuple[str, ...] = ()
    """How they were measured, a sentence each."""
    details: tuple[Table, ...] = ()
    """The protocols' own numbers."""

    @property
    def by_source(self) -> list[tuple[str, Verdict]]:
        """Each verdict behind what tells it from the others: nothing where it is alone, else its task."""
        if len(self.verdicts) == 1:
            return [("", self.verdicts[0])]
        return [(f"{source}: ", verdict) for source, verdict in zip(self.sources, self.verdicts, strict=True)]

    @property
    def all_charts(self) -> tuple[Chart, ...]:
        """Those of the verdicts, then the section's own."""
        of_verdicts = [
            replace(chart, title=source + chart.title)
            for source, verdict in self.by_source
            for chart in verdict.charts
        ]
        return (*of_verdicts, *self.charts)


def measured_tasks(models: Sequence[ModelResults]) -> list[TaskType]:
    """Return every task that some model has a result of, in the order in which they were run."""
    return [task_type(name) for name in dict.fromkeys(name for model in models for name in model.tasks)]


def side_by_side(task: TaskType, models: Sequence[ModelResults]) -> list[Measured[Any]]:
    """Return all models as a task's table and plot take them."""
    return [
        Measured(model.name, model.original_window, model.target_window, model.tasks.get(task.name))
        for model in models
    ]


def describe_protocol(task: TaskType, models: Sequence[ModelResults]) -> list[str]:
    """Say how a task measured: one line, or one per model where models differ."""
    texts = {
        model.name: model.tasks[task.name].protocol.get("summary", "unnamed protocol")
        for model in models
        if task.name in model.tasks
    }
    if len(set(texts.values())) == 1:
        return [f"{task.title}: {next(iter(texts.values()))}"]
    return [f"{task.title} of {name}: {text}" for name, text in texts.items()]


def build_sections(
    models: Sequence[ModelResults], pictures: Mapping[str, Path] | None = None
) -> list[Section]:
    """Return a section for each question that the tasks answer, and for each task that answers none.

    Args:
        models: at least one.
        pictures: task name → what its `plot` drew.
    """
    sections: dict[str, Section] = {}
    for task in measured_tasks(models):
        measured = side_by_side(task, models)
        table, verdicts = task.table(measured), list(task.verdicts(measured))
        picture = (pictures or {}).get(task.name)
        first = Section(
            verdicts[0].question if verdicts else table.title,
            verdicts=tuple(verdicts[:1]),
            sources=(task.title,) * len(verdicts[:1]),
            pictures=() if picture is None else (picture,),
            tables=(table,),
            protocols=tuple(describe_protocol(task, models)),
            details=tuple(_protocol_numbers(task, models)),
        )
        others = (Section(v.question, verdicts=(v,), sources=(task.title,)) for v in verdicts[1:])
        for section in (first, *others):
            other = sections.get(section.heading)
            sections[section.heading] = _joined(other, section) if other else section
    return list(sections.values())


def _joined(one: Section, other: Section) -> Section:
    """Two tasks' evidence for one question. What they measured alike is shown once."""
    known = {verdict.findings for verdict in one.verdicts}
    pairs = zip(other.verdicts, other.sources, strict=True)
    new = [(verdict, source) for verdict, source in pairs if verdict.findings not in known]
    return replace(
        one,
        verdicts=one.verdicts + tuple(verdict for verdict, _ in new),
        sources=one.sources + tuple(source for _, source in new),
        pictures=one.pictures + other.pictures,
        tables=one.tables + other.tables,
        protocols=one.protocols + other.protocols,
        details=one.details + other.details,
    )


def _protocol_numbers(task: TaskType, models: Sequence[ModelResults]) -> list[Table]:
    """Every number that shapes the result, once for all models that share them."""
    tables: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for model in models:
        if task.name in model.tasks:
            protocol = model.tasks[task.name].protocol
            lines = tuple(
                (key.replace("_", " "), _in_words(value))
                for key, value in protocol.items()
                if key not in ("name", "summary")
            )
            tables.setdefault(lines, []).append(model.name)
    whose = "" if len(tables) == 1 else " of {}"
    return [
        Table(f"Numbers of the protocol: {task.title}{whose.format(', '.join(names))}", ("", ""), lines)
        for lines, names in tables.items()
        if lines
    ]


def _in_words(value: Any) -> str:
    """A JSON value as people read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_in_words, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_in_words(own)}" for key, own in value.items()) or "none"
    return str(value)


def origin_tables(models: Sequence[ModelResults]) -> list[Table]:
    """Where the numbers come from, models side by side; a line that all share stands once.

    The last column of a line holds what all models share; where they differ, there is a column for each.
    """
    headings = list(dict.fromkeys(heading for model in models for heading in model.origin))
    tables = []
    for heading in headings:
        facts = [model.origin.get(heading, {}) for model in models]
        names = list(dict.fromkeys(name for own in facts for name in own))
        lines = []
        for name in names:
            cells = tuple(own.get(name, "–") for own in facts)
            lines.append((name, *((cells[0],) if len(set(cells)) == 1 else cells)))
        if lines:
            tables.append(Table(heading, ("", *(model.name for model in models)), tuple(lines)))
    return tables
