"""The report of several evaluated models: a terminal table, results.json, a Markdown summary and plots."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_pi.errors import DataError
from nemo_pi.evaluation.heat_maps import plot_passkey
from nemo_pi.evaluation.plots import plot_perplexity
from nemo_pi.evaluation.row import EvaluationRow, write_results
from nemo_pi.evaluation.tables import Table, build_tables, describe_protocols, describe_windows

COLUMNS = 100


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written."""

    folder: Path
    """What holds the others."""
    results: Path
    """results.json, which `row.read_results` reads."""
    summary: Path
    """report.md, which shows the plots."""
    plots: tuple[Path, ...]
    """perplexity.png and passkey.png, those there was something to draw for."""


def render_text(rows: Sequence[EvaluationRow], columns: int = COLUMNS) -> str:
    """Return the report as plain text, at most `columns` wide, ending in a line break.

    Raises:
        DataError: no rows.
    """
    _require_rows(rows)
    parts = [describe_windows(rows)]
    parts += ["\n".join([table.title, *_align(table, columns)]) for table in build_tables(rows)]
    parts.append(
        "\n".join(textwrap.fill(line, columns, subsequent_indent="  ") for line in describe_protocols(rows))
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def render_markdown(rows: Sequence[EvaluationRow], title: str, plots: Sequence[Path] = ()) -> str:
    """Return the report as Markdown, with the plots as pictures beside it.

    Raises:
        DataError: no rows.
    """
    _require_rows(rows)
    parts = [f"# {title}", f"{describe_windows(rows)}."]
    for table in build_tables(rows):
        parts += [f"## {table.title}", "\n".join(_markdown(table))]
    parts += [f"![{plot.stem} by context length]({plot.name})" for plot in plots]
    protocols = describe_protocols(rows)
    if protocols:
        parts += ["## How it was measured", "\n".join(f"- {line}" for line in protocols)]
    return "\n\n".join(parts) + "\n"


def write_report(
    rows: Sequence[EvaluationRow],
    folder: str | Path,
    *,
    title: str = "Context extension: results",
    plots: bool = True,
) -> ReportFiles:
    """Write results.json, report.md and, unless told otherwise, the plots into a folder (made if need be).

    results.json comes first: whatever fails later, the measurements are safe.

    Raises:
        DataError: no rows. BackendUnavailableError: plots asked for without matplotlib.
    """
    _require_rows(rows)
    folder = Path(folder)
    results = write_results(rows, folder / "results.json")
    pictures = []
    if plots and any(math.isfinite(value) for row in rows for value in row.perplexity.values()):
        pictures.append(plot_perplexity(rows, folder / "perplexity.png"))
    if plots and any(row.passkey for row in rows):
        pictures.append(plot_passkey(rows, folder / "passkey.png"))
    summary = folder / "report.md"
    summary.write_text(render_markdown(rows, title, pictures), encoding="utf-8")
    return ReportFiles(folder, results, summary, tuple(pictures))


def _align(table: Table, columns: int) -> list[str]:
    numbers = [max(map(len, column)) for column in list(zip(table.header, *table.lines, strict=True))[1:]]
    room = max(12, columns - sum(width + 2 for width in numbers))
    names = [_shorten(line[0], room) for line in (table.header, *table.lines)]
    width = max(map(len, names))
    lines = [
        name.ljust(width) + "".join(f"  {cell:>{size}}" for cell, size in zip(line[1:], numbers, strict=True))
        for name, line in zip(names, (table.header, *table.lines), strict=True)
    ]
    return [lines[0], "─" * len(lines[0]), *lines[1:]]


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _markdown(table: Table) -> list[str]:
    rule = ("---", *("---:" for _ in table.header[1:]))
    lines = (table.header, rule, *table.lines)
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _require_rows(rows: Sequence[EvaluationRow]) -> None:
    if not rows:
        raise DataError(
            "rows", required="at least one evaluated model", given="none", mend="evaluate a model"
        )
