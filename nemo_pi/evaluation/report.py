"""The report of several evaluated models: a terminal table, results.json, Markdown, HTML and plots."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_pi.errors import DataError
from nemo_pi.evaluation.page.page import render_page
from nemo_pi.evaluation.results import ModelResults, write_results
from nemo_pi.evaluation.sections import (
    Section,
    build_sections,
    describe_protocol,
    measured_tasks,
    origin_tables,
    side_by_side,
)
from nemo_pi.evaluation.text_tables import Table, aligned, markdown
from nemo_pi.evaluation.verdicts import in_words

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
    page: Path
    """report.html, which needs no other file."""
    plots: tuple[Path, ...]
    """A picture named after each task (perplexity.png) that had something to draw."""


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


def describe_measuring(models: Sequence[ModelResults]) -> str:
    """Say when and on what the numbers were measured, as far as all models agree; else nothing."""
    known = [model.origin.get("Environment", {}) for model in models]
    days = {own.get("date", "").partition(",")[0] for own in known}
    processors = {own.get("GPUs") or own.get("processor", "") for own in known}
    if len(days) > 1 or len(processors) > 1 or "" in days | processors:
        return ""
    return f"Measured on {days.pop()}, {processors.pop()}."


def describe_protocols(models: Sequence[ModelResults]) -> list[str]:
    """Say how the numbers were measured: one line per task, or per model where models differ."""
    return [line for task in measured_tasks(models) for line in describe_protocol(task, models)]


def describe_answers(models: Sequence[ModelResults]) -> list[str]:
    """Say what the numbers answer: one line per question."""
    names = [model.name for model in models]
    return [
        f"{section.heading} {in_words(section.verdicts[0], names)}"
        for section in build_sections(models)
        if section.verdicts
    ]


def render_text(models: Sequence[ModelResults], columns: int = COLUMNS) -> str:
    """Return the report as plain text, at most `columns` wide, ending in a line break.

    Raises:
        DataError: no models.
    """
    _require_some(models)
    parts = [describe_windows(models)]
    parts += ["\n".join([table.title, *aligned(table, columns)]) for table in build_tables(models)]
    parts += [
        "\n".join(textwrap.fill(line, columns, subsequent_indent="  ") for line in lines)
        for lines in (describe_answers(models), describe_protocols(models))
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_markdown(
    models: Sequence[ModelResults],
    title: str,
    plots: Sequence[Path] = (),
    more: Sequence[Section] = (),
) -> str:
    """Return the report as Markdown, question by question, with the plots as pictures beside it.

    Args:
        models: at least one.
        title: of the report.
        plots: pictures, named after the tasks whose they are.
        more: sections behind those of the tasks.

    Raises:
        DataError: no models.
    """
    _require_some(models)
    names = [model.name for model in models]
    sections = [*build_sections(models, {plot.stem: plot for plot in plots}), *more]
    answers = [(section.heading, section.verdicts[0]) for section in sections if section.verdicts]
    parts = [f"# {title}", f"{describe_windows(models)}."]
    if answers:
        lines = [f"- **{heading}** {in_words(verdict, names)}" for heading, verdict in answers]
        parts += ["## At a glance", "\n".join(lines)]
    for section in sections:
        parts += _markdown_section(section, names)
    if not sections:
        parts.append("Nothing was measured.")
    origin = origin_tables(models)
    if origin:
        parts.append("## Configuration, plan and environment")
        parts += [f"### {content.title}\n\n" + "\n".join(_markdown_facts(content)) for content in origin]
    return "\n\n".join(parts) + "\n"


def write_report(
    models: Sequence[ModelResults],
    folder: str | Path,
    *,
    title: str = "Context extension: results",
    plots: bool = True,
    more: Sequence[Section] = (),
) -> ReportFiles:
    """Write results.json, report.html, report.md and, unless told otherwise, the plots into a folder.

    results.json comes first: whatever fails later, the measurements are safe.

    Args:
        models: at least one; the first is what the others are compared with.
        folder: made if need be.
        title: of the report.
        plots: whether pictures are drawn for report.md; report.html draws its own.
        more: sections behind those of the tasks, such as a training's losses.

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
    summary.write_text(render_markdown(models, title, pictures, more), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(render_html(models, title, pictures, more), encoding="utf-8")
    return ReportFiles(folder, results, summary, page, tuple(pictures))


def render_html(
    models: Sequence[ModelResults],
    title: str,
    plots: Sequence[Path] = (),
    more: Sequence[Section] = (),
) -> str:
    """Return the report as one HTML file; arguments and errors as of `render_markdown`.

    The pictures of tasks that give no charts become part of it.
    """
    _require_some(models)
    sections = [*build_sections(models, {plot.stem: plot for plot in plots}), *more]
    names = [model.name for model in models]
    intro = f"{describe_windows(models)}. {describe_measuring(models)}".strip()
    return render_page(title, intro, sections, names, origin_tables(models))


def _markdown_section(section: Section, names: Sequence[str]) -> list[str]:
    parts = [f"## {section.heading}", *([section.text] if section.text else [])]
    for source, verdict in section.by_source:
        found = zip(names, verdict.findings, strict=True)
        lines = [f"- {name}: **{verdict.word(f.answer)}**: {f.text}" for name, f in found if f is not None]
        parts += [source + in_words(verdict, names), "\n".join(lines), f"What counts: {verdict.rule}"]
    parts += [f"![{plot.stem}: {section.heading}]({plot.name})" for plot in section.pictures]
    for content in section.tables:
        parts += [*([f"**{content.title}**"] if section.verdicts else []), "\n".join(markdown(content))]
    parts += [f"How it was measured: {protocol}." for protocol in section.protocols]
    return [part for part in parts if part]


def _markdown_facts(table: Table) -> list[str]:
    """Texts by model; what all models share stands in the first column alone."""
    shared = all(len(line) == 2 for line in table.lines)
    header = ("", "all models") if shared and len(table.header) > 2 else table.header
    lines = tuple(line + ("″",) * (len(header) - len(line)) for line in table.lines)
    return markdown(Table(table.title, header, lines))


def _require_some(models: Sequence[ModelResults]) -> None:
    if not models:
        raise DataError(
            "models", required="at least one evaluated model", given="none", fix="evaluate a model"
        )
