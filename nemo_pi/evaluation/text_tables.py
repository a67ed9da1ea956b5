"""Tables as lists of cells: the terminal and Markdown only lay them out differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_COLUMNS = 8
MISSING = "–"


@dataclass(frozen=True)
class Table:
    """A table whose first column is text and whose others are numbers."""

    title: str
    """What stands above it."""
    header: tuple[str, ...]
    """Names of the columns."""
    lines: tuple[tuple[str, ...], ...]
    """Cells as they are shown, a line for each model."""


def thin(lengths: Sequence[int], most: int = MOST_COLUMNS) -> list[int]:
    """Keep at most `most` evenly spread entries, the last among them."""
    step = -(-len(lengths) // most)
    return list(reversed(lengths[::-1][::step])) if step > 1 else list(lengths)


def aligned(table: Table, columns: int) -> list[str]:
    """Lay a table out as lines of at most `columns` characters, header and rule first, without its title."""
    numbers = [max(map(len, column)) for column in list(zip(table.header, *table.lines, strict=True))[1:]]
    room = max(12, columns - sum(width + 2 for width in numbers))
    names = [_shorten(line[0], room) for line in (table.header, *table.lines)]
    width = max(map(len, names))
    lines = [
        name.ljust(width) + "".join(f"  {cell:>{size}}" for cell, size in zip(line[1:], numbers, strict=True))
        for name, line in zip(names, (table.header, *table.lines), strict=True)
    ]
    return [lines[0], "─" * len(lines[0]), *lines[1:]]


def markdown(table: Table) -> list[str]:
    """Write a table in Markdown, without its title."""
    rule = ("---", *("---:" for _ in table.header[1:]))
    lines = (table.header, rule, *table.lines)
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
