"""The results of all rows as Markdown and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from benchmarks.harness import hardware
from evidence.replicate.row import Verdict

INTRODUCTION = """# The papers in small

For those who ask which of the papers' results this implementation shows on a model that trains in minutes.

```
make replicate              # about an hour on two idle cores
make replicate STEPS=800    # each method four times as long
```

writes this page: each row is an object with a measurement and a criterion (`evidence/replicate/`). The model
is the bundled one (3.7 M parameters, extended from 512 to 4,096 tokens); what a row takes at the paper's size
stands [below](#at-full-size)."""
EARLIER = (
    " A date in a row is that of an earlier run of the same commands (docs/pose.md: two cores of an AMD "
    "EPYC), which is quoted where this one has not measured the row."
)


def as_page(verdicts: Sequence[Verdict], steps: int, figure: str) -> str:
    """The page docs/replicate.md."""
    machine = hardware()
    counts = Counter(verdict.word for verdict in verdicts)
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    lines = [
        _line(v.row.claim, f"{v.row.source}: {v.row.published}", _measured(v), v.row.criterion, v.text)
        for v in verdicts
    ]
    full = [_line(v.row.claim, v.row.full_size) for v in verdicts]
    return "\n".join(
        [
            INTRODUCTION,
            "",
            f"Written on {date.today().isoformat()}, {machine.name}, torch {machine.torch}; {steps} steps "
            f"of each method: {summary}.{EARLIER if any(v.earlier for v in verdicts) else ''}",
            "",
            "| claim | published | measured here | it holds if | verdict |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"![one attention score within the window, beyond it and between positions]({figure})",
            "",
            "## At full size",
            "",
            "| claim | how |",
            "|---|---|",
            *full,
            "",
        ]
    )


def as_json(verdicts: Sequence[Verdict], steps: int) -> str:
    """The same for programs."""
    rows: list[dict[str, Any]] = [
        {
            "key": v.row.key,
            "source": v.row.source,
            "claim": v.row.claim,
            "published": v.row.published,
            "values": dict(v.values),
            "criterion": v.row.criterion,
            "verdict": v.text,
            "measured": v.earlier or date.today().isoformat(),
        }
        for v in verdicts
    ]
    content = {
        "date": date.today().isoformat(),
        "hardware": asdict(hardware()),
        "steps": steps,
        "rows": rows,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _line(*cells: str) -> str:
    # A bar would end the cell.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _measured(verdict: Verdict) -> str:
    text = "; ".join(f"{name} {_number(value)}" for name, value in verdict.values.items()) or "—"
    return f"{text} ({verdict.earlier})" if verdict.earlier else text


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
