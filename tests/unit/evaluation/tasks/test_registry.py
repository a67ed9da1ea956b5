from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.data.tokenizer import build_tokenizer
from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.tasks import registry
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.passkey import Passkey
from nemo_pi.evaluation.tasks.perplexity import Perplexity
from tests.plug_ins import install

DEMO = Path(__file__).resolve().parents[4] / "demo"

SOURCE = """
from nemo_pi.evaluation.tasks.passkey import Passkey

class Deep(Passkey):
    name = "deep"

class Misnamed(Passkey):
    name = "other"
"""

OURS = [
    "perplexity",
    "passkey",
    "short",
    "position_loss",
    "longppl",
    "needle",
    "ruler",
    "summarization",
    "lm_eval",
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))


def test_our_own_tasks_come_first_in_the_order_of_the_report() -> None:
    assert registry.task_names() == OURS
    assert registry.task_type("perplexity") is Perplexity and registry.task_type("passkey") is Passkey


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^tasks\.x: required a task: .*did you mean 'perplexity'"):
        registry.task_type("perplexty", "tasks.x")


def test_a_name_is_taken_once() -> None:
    class Other(Passkey):
        pass

    assert registry.register(Passkey) is Passkey
    with pytest.raises(ConfigError, match="a name that no other task has"):
        registry.register(Other)


def test_an_installed_task_is_imported_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"deep": "Deep", "misnamed": "Misnamed", "gone": "Gone", "passkey": "Deep"}
    install(tmp_path / "site", monkeypatch, "ours", SOURCE, registry.PLUG_INS, entries)
    assert registry.task_names() == [*OURS, "deep", "gone", "misnamed"]
    assert registry.task_type("deep").name == "deep"
    assert registry.task_type("passkey") is Passkey, "nobody takes our names"
    for broken in ("misnamed", "gone"):
        with pytest.raises(ConfigError, match=rf"^task {broken}: .*update or uninstall"):
            registry.task_type(broken)


@pytest.fixture(scope="module")
def context() -> TaskContext:
    tokenizer = build_tokenizer("huggingface", str(DEMO / "model"))
    with lzma.open(DEMO / "text" / "heldout.jsonl.xz", "rt", encoding="utf-8") as file:
        documents = [tokenizer.encode(json.loads(next(file))["text"])]
    return TaskContext(tokenizer, documents, 512, 1024)


ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "perplexity": [{}, *({"protocol": name} for name in ("yarn", "pose", "hf"))],
    "passkey": [{}, *({"protocol": name} for name in ("yarn", "pose"))],
    "longppl": [{"short": 128, "stride": 128}],
    "ruler": [{"subtasks": ("niah_single_1",), "samples": 1}],
}


@pytest.mark.parametrize("name", [name for name in OURS if name != "lm_eval"])  # slow: in test_lm_eval.py
def test_how_it_is_measured_does_not_say_its_title_again(
    name: str, context: TaskContext, tmp_path: Path
) -> None:
    task = registry.task_type(name)
    arguments = ARGUMENTS.get(name, [{}])
    if name == "summarization":
        path = tmp_path / "reports.jsonl"
        path.write_text(json.dumps({"report": "a long report", "summary": "short"}) + "\n")
        arguments = [{"reports": str(path), "summary_tokens": 8}]
    for given in arguments:
        summary = task(**given).plan(context).protocol["summary"]
        # A report says "title: summary".
        begins = summary.lower().replace(" ", "")
        assert begins and not begins.startswith(task.title.lower().split()[0]), summary
