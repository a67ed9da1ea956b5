"""JSON whose values fit into memory: by number and by depth, not only by the file's length.

`[],[],…` takes three bytes a list in a file and seventy in memory, and a thousand nested lists end Python's
recursion in whoever walks over them.
"""

from __future__ import annotations

import json
import re
from typing import Any

MOST_VALUES = 1_000_000
"""Of one text: some 100 MB in memory at the worst. No model's description has so many; a vocabulary may have
some times as many."""
MOST_LEVELS = 64
"""Of nested objects and lists, in a file that describes a model."""

MOST_JSON_BYTES = 1 << 24
"""Of a config.json, a manifest or an index of shards; the largest published index has 9 MB."""
MOST_VOCABULARY_BYTES = 1 << 26
"""Of a tokenizer's file; the largest published one has 35 MB."""
MOST_VOCABULARY_VALUES = 8_000_000
"""Tokens with their numbers, and the pairs that they are merged from: some six for a token."""

# A text in quotes; one that never ends takes the rest, so that the scan is of one pass whatever is in it.
_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def parse_json(data: bytes, *, most_values: int = MOST_VALUES, most_levels: int | None = MOST_LEVELS) -> Any:
    """What a JSON text in UTF-8 says.

    Args:
        data: the text.
        most_values: values and keys that it may hold.
        most_levels: nested levels that it may have; None leaves them to Python's recursion.

    Raises:
        ValueError: no JSON, not UTF-8, or more values or levels than allowed.
    """
    check_amount(data, most_values)
    try:
        values = json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("lists and objects nested without end") from error
    if most_levels is not None:
        _check_levels(values, most_levels)
    return values


def check_amount(data: bytes, most_values: int) -> None:
    """Refuses a JSON text of more values than `most_values`, without parsing it.

    Raises:
        ValueError: it has more.
    """
    # What stands within quotes separates nothing; they are left out only where it matters, for that takes as
    # long as parsing.
    if _separators(data) > most_values and _separators(_TEXTS.sub(b"", data)) > most_values:
        raise ValueError(f"more than {most_values:,} values")


def _separators(data: bytes) -> int:
    """Commas, brackets and colons: at least one for each value."""
    return sum(map(data.count, (b",", b"[", b"{", b":")))


def _check_levels(values: Any, most: int) -> None:
    level = [values]
    for _ in range(most + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"more than {most} nested levels")
