"""Every wrong input is one message of ours that names it, what is required and a fix; none is a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.mistakes import DOCS, MISTAKES, Mistake, answer


def _id(given: Mistake) -> str:
    return (
        f"{given.command} {' '.join(given.words)} {given.files[0][1][:30]!r}"[:80]
        if given.files
        else (f"{given.command} {' '.join(given.words)}"[:80])
    )


@pytest.mark.parametrize("given", MISTAKES, ids=map(_id, MISTAKES))
def test_a_mistake_is_one_message(given: Mistake, tmp_path: Path) -> None:
    said = answer(given, tmp_path)
    lower = said.lower()
    assert [words for words in given.says if words.lower() not in lower] == [], said
    assert "Traceback" not in said and len(said) < 3000
    assert "To fix:" in said or said.startswith("error: ")  # argparse's own, which lists what there is


def test_there_are_enough_and_all_are_listed() -> None:
    assert len(MISTAKES) >= 150
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(MISTAKES)
