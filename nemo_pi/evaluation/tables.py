"""The tables of the report, as lists of cells: the terminal and Markdown only lay them out differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_pi.evaluation.row import EvaluationRow

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


def build_tables(rows: Sequence[EvaluationRow]) -> list[Table]:
    """Return the perplexity table and the passkey table, each only if some row has such results."""
    tables = []
    if any(row.perplexity for row in rows):
        tables.append(_perplexity_table(rows))
    if any(row.passkey for row in rows):
        tables.append(_passkey_table(rows))
    return tables


def describe_windows(rows: Sequence[EvaluationRow]) -> str:
    """Say what windows the rows have, once if they agree."""
    pairs = {(row.original_window, row.target_window): row.name for row in rows}
    parts = [f"original window {a:,} tokens, evaluated up to {b:,}" for a, b in pairs]
    if len(parts) == 1:
        return parts[0][0].upper() + parts[0][1:]
    return "; ".join(f"{row.name}: {row.original_window:,} → {row.target_window:,} tokens" for row in rows)


def describe_protocols(rows: Sequence[EvaluationRow]) -> list[str]:
    """Say how the numbers were measured: one line per measurement, or per row where rows differ."""
    lines = []
    for kind, title in (("perplexity", "Perplexity"), ("passkey", "Passkey")):
        texts = {
            row.name: row.protocol[kind].get("summary", "unnamed protocol")
            for row in rows
            if kind in row.protocol
        }
        if len(set(texts.values())) == 1:
            lines.append(f"{title}: {next(iter(texts.values()))}")
        else:
            lines.extend(f"{title} of {name}: {text}" for name, text in texts.items())
    return lines


def format_perplexity(value: float | None) -> str:
    """Write a perplexity with three or more figures, in at most seven characters."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return str(value)
    if value < 99.95:
        return f"{value:.2f}"
    if value < 999.95:
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 99_999.5 else f"{value:.1e}"


def _perplexity_table(rows: Sequence[EvaluationRow]) -> Table:
    lengths = thin(sorted({length for row in rows for length in row.perplexity}))
    return Table(
        "Perplexity by context length in tokens (lower is better)",
        ("model", *(f"{length:,}" for length in lengths)),
        tuple((row.name, *(format_perplexity(row.perplexity.get(n)) for n in lengths)) for row in rows),
    )


def _passkey_table(rows: Sequence[EvaluationRow]) -> Table:
    lengths = thin(sorted({length for row in rows if row.passkey for length in row.passkey.lengths}))
    return Table(
        "Passkeys retrieved by document length in tokens, all depths together, and k_max (higher is better)",
        ("model", *(f"{length:,}" for length in lengths), "k_max"),
        tuple((row.name, *(_rate(row, n) for n in lengths), _k_max(row)) for row in rows),
    )


def _rate(row: EvaluationRow, length: int) -> str:
    if row.passkey is None or length not in row.passkey.lengths:
        return MISSING
    return f"{row.passkey.rate(length):.0%}"


def _k_max(row: EvaluationRow) -> str:
    return MISSING if row.k_max is None else f"{row.k_max:,}"


def thin(lengths: Sequence[int], most: int = MOST_COLUMNS) -> list[int]:
    """Keep at most `most` evenly spread entries, the last among them."""
    step = -(-len(lengths) // most)
    return list(reversed(lengths[::-1][::step])) if step > 1 else list(lengths)
