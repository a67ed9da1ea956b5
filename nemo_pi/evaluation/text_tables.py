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
