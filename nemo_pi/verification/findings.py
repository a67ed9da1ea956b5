"""What a check found: the largest difference, where it was, what is allowed, and why that much."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OK, FAILED, NOTE, SKIPPED = "ok", "FAILED", "note", "not done"
"""Verdicts. A note may be meant; `not done` says why in `where`."""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    """What was compared."""
    against: str
    """With what."""
    verdict: str
    """One of those above."""
    difference: float | None = None
    """The largest, in the unit of what was compared; None where nothing is measured."""
    tolerance: float | None = None
    """The largest that is allowed."""
    where: str = ""
    """Row, position, layer or entry of the largest difference."""
    why: str = ""
    """Where the tolerance comes from."""
    layout: str = ""
    """Ranks that computed it; empty: one."""

    @property
    def failed(self) -> bool:
        """Whether this is a fault."""
        return self.verdict == FAILED

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measured(
    check: str, against: str, difference: float, tolerance: float, where: str, why: str, layout: str = ""
) -> Finding:
    """A difference judged by its tolerance; what is no number fails."""
    verdict = OK if difference <= tolerance else FAILED
    return Finding(check, against, verdict, difference, tolerance, where, why, layout)
