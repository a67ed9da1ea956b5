"""Figures of the attacks, for docs/reliability.md: `make attack` collects and writes them.

python -m tests.reliability.figures record.jsonl docs/reliability.md
"""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path

from nemo_pi.machine import cpu_name

RECORD = "NEMO_PI_ATTACK_RECORD"
"""Variable of the environment that names the file of figures; without it none are kept."""
_BEGIN, _END = "<!-- attacks: written by `make attack` -->", "<!-- attacks: end -->"


def record(attack: str, tried: int, held: int, detail: str = "") -> None:
    """Keeps how often something was tried, and how often it went as it should."""
    path = os.environ.get(RECORD)
    if path:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps([attack, tried, held, detail]) + "\n")


def table(lines: list[str], processor: str) -> str:
    """The figures as Markdown; those of one attack are added up."""
    sums: dict[str, list[int]] = {}
    details: dict[str, list[str]] = {}
    for line in lines:
        attack, tried, held, detail = json.loads(line)
        total = sums.setdefault(attack, [0, 0])
        total[0] += tried
        total[1] += held
        if detail:
            details.setdefault(attack, []).append(detail)
    rows = [
        f"| {attack} | {held} of {tried} | {'; '.join(dict.fromkeys(details.get(attack, [])))} |"
        for attack, (tried, held) in sums.items()
    ]
    head = f"{date.today().isoformat()}, {processor}, gloo:"
    return "\n".join([head, "", "| attack | held | |", "| --- | ---: | --- |", *rows])


if __name__ == "__main__":
    record_path, page = Path(sys.argv[1]), Path(sys.argv[2])
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    found = table(
        record_path.read_text(encoding="utf-8").splitlines(), f"{cpu_name()}, {os.cpu_count()} threads"
    )
    page.write_text(f"{before}{_BEGIN}\n{found}\n{_END}{after}", encoding="utf-8")
