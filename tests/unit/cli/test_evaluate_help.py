"""What --help says of tasks, as overrides take it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.cli.evaluate_arguments import parse
from nemo_pi.cli.evaluate_help import describe_tasks
from nemo_pi.evaluation.tasks.registry import PLUG_INS
from tests.plug_ins import install

# A task without a docstring, and with every kind of default.
SOURCE = """
from dataclasses import dataclass, field
from nemo_pi.evaluation.tasks.base import Task


@dataclass(frozen=True)
class Recall(Task):
    name = "recall"
    title = "Words recalled"
    words: list[str] = field(default_factory=lambda: ["a b", "true"])
    tokens: int
    short: float = 1e-5
    plan = run = table = None


Recall.__abstractmethods__ = frozenset()
"""


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    source = SOURCE.replace("tokens: int\n", "tokens: int = field(kw_only=True)\n")
    install(tmp_path, monkeypatch, "recalling", source, PLUG_INS, {"recall": "Recall"})
    return describe_tasks()


def test_a_task_without_a_docstring_shows_its_title(text: str) -> None:
    assert "  tasks.recall   Words recalled\n" in text and "Recall(" not in text


def test_defaults_are_written_as_they_are_given(text: str) -> None:
    assert "tasks.recall.words=[a b, 'true']" in text and "tasks.recall.tokens=(required)" in text
    prefix = "    tasks.passkey."
    words = [line.strip().replace(", ", ",") for line in text.splitlines() if line.startswith(prefix)]
    assert len(words) == 7
    assert parse(arguments=["model", *words]).tasks == parse(arguments=["model"]).tasks
