"""Numbers as people read them."""

from __future__ import annotations


def grouped(number: int) -> str:
    """32768 → `32,768`."""
    return f"{number:,}"


def short(number: float) -> str:
    """6738415616 → `6.74 billion`; below a million all digits are shown."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def size_of(num_bytes: float) -> str:
    """2147483648 → `2.0 GiB` (binary units)."""
    for size, word in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {word}"
    return f"{num_bytes / 2**10:.0f} KiB"


def plural(number: int, word: str) -> str:
    """(1, "rank") → `1 rank`; (2, "rank") → `2 ranks`; (2, "micro-batch") → `2 micro-batches`."""
    ending = "" if number == 1 else "es" if word.endswith(("ch", "s", "x")) else "s"
    return f"{grouped(number)} {word}{ending}"


def duration(seconds: float) -> str:
    """0.034 → `0.034 s`; 75 → `75 s`; 5400 → `90 min`; 2e5 → `56 h`; 1e6 → `12 days`."""
    for size, word, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 72)):
        if seconds / size < most:
            return f"{seconds / size:.2g} {word}" if seconds / size < 10 else f"{seconds / size:.0f} {word}"
    return f"{seconds / 86400:.0f} days"
