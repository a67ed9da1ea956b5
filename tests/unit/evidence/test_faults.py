"""The table of other tools' faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_every_fault_has_a_report_and_a_test_of_ours() -> None:
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    table = text.partition("| fault | reported | our test |")[2].partition("\n\n")[0].splitlines()[2:]
    named: list[tuple[str, str]] = []
    for line in table:
        _, reported, ours = line.strip("| ").split(" | ")
        assert "https://github.com/" in reported
        assert "the same" in ours or "tests/" in ours
        file = ""
        for path, name in re.findall(r"(tests/[\w/]+\.py)|(test_\w+)", ours):
            file = path or file
            if name:
                named.append((file, name))
    assert len(table) >= 8 and named
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)
