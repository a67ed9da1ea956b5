"""Findings as a table for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import write_json
from nemo_pi.verification.findings import Finding

_HEADER = ("check", "against", "largest difference", "allowed", "where", "verdict")


def render(findings: Sequence[Finding]) -> str:
    """A table, a line for each finding, and below it where tolerances come from."""
    lines = [_HEADER, *(_cells(finding) for finding in findings)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows.insert(1, "  ".join("-" * width for width in widths))
    reasons = dict.fromkeys(finding.why for finding in findings if finding.why)
    notes = [f"allowed: {reason}" for reason in reasons]
    return "\n".join([*(row.rstrip() for row in rows), "", *notes])


def _cells(finding: Finding) -> tuple[str, ...]:
    layout = f"{finding.layout}: " if finding.layout else ""
    difference, tolerance = (
        "" if number is None else f"{number:.1e}" for number in (finding.difference, finding.tolerance)
    )
    return (
        layout + finding.check,
        finding.against,
        difference,
        tolerance,
        finding.where,
        finding.verdict,
    )


def write_results(path: Path, findings: Sequence[Finding], about: dict[str, Any]) -> None:
    """Everything as JSON: `about`, then the findings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = sum(finding.failed for finding in findings)
    write_json(path, {**about, "failed": failed, "findings": [finding.to_dict() for finding in findings]})
