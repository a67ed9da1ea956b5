"""CONTRIBUTING.md, "Add a task", followed to the letter: one new file, one line of the YAML, a report."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from nemo_pi.cli.evaluate import run
from nemo_pi.cli.evaluate_help import describe_tasks
from nemo_pi.evaluation.results import read_results
from nemo_pi.evaluation.tasks import registry
from tests.integration.doors.test_method import code_in
from tests.plug_ins import install

ROOT = Path(__file__).resolve().parents[3]
BUNDLED = ROOT / "demo" / "model"

# Another one file, which has all that a task can have.
SOURCE = '''
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_pi.errors import ConfigError
from nemo_pi.evaluation.generation import GenerationRequest
from nemo_pi.evaluation.scorer import Scorer
from nemo_pi.evaluation.style import headline, new_figure, save
from nemo_pi.evaluation.text_tables import Table
from nemo_pi.evaluation.tasks.base import Cost, Measured, Plan, Progress, Task, TaskContext, TaskResult


@dataclass(frozen=True)
class Copied(TaskResult):
    """How many words came back."""

    words: list[str]
    answers: list[str]

    @property
    def rate(self) -> float:
        return sum(map(str.__eq__, self.words, self.answers)) / len(self.words)


@dataclass(frozen=True)
class CopyWord(Task[list[list[int]], Copied]):
    """Whether the model gives back a word that it was told to remember."""

    name = "copy_word"
    title = "Copied words"
    result_type = Copied

    words: tuple[str, ...] = ("12345", "90210")
    """Each is a prompt."""
    tokens: int = 6
    """New tokens at most."""

    def plan(self, context: TaskContext) -> Plan[list[list[int]]]:
        if self.tokens < 1:
            raise ConfigError("tokens", required="≥ 1", given=self.tokens, fix="give e.g. 6")
        told = "The pass key is {0}. Remember it. {0} is the pass key.\\nWhat is the pass key? "
        prompts = [context.tokenizer.encode(told.format(word) + "The pass key is") for word in self.words]
        cost = Cost(1, sum(map(len, prompts)), self.tokens * len(prompts))
        return Plan(prompts, context, cost, {"name": "copy", "summary": f"greedy, {self.tokens} tokens"})

    def run(self, scorer: Scorer, plan: Plan[list[list[int]]], progress: Progress) -> Copied:
        progress("copying", 0, plan.cost.tokens)
        request = GenerationRequest(self.tokens, stop_strings=(".",), decode=plan.context.tokenizer.decode)
        texts = scorer.generate(plan.work, request)
        progress("copying", plan.cost.tokens, plan.cost.tokens)
        return Copied(plan.protocol, list(self.words), [text.text.strip() for text in texts])

    @classmethod
    def table(cls, models: Sequence[Measured[Copied]]) -> Table:
        cells = ((m.model, f"{m.result.rate:.0%}" if m.result else "–") for m in models)
        return Table("Words copied", ("model", "rate"), tuple(cells))

    @classmethod
    def plot(cls, models: Sequence[Measured[Copied]], path: Path) -> Path | None:
        with new_figure(4, 3) as figure:
            headline(figure, cls.title, "greedy")
            axes = figure.add_axes((0.2, 0.2, 0.7, 0.5))
            axes.bar([m.model for m in models], [m.result.rate if m.result else 0 for m in models])
            return save(figure, path)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task with a plot and types, installed with the entry point that the recipe shows."""
    declare(tmp_path, monkeypatch, SOURCE)


def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("### Add a task")[2]
    lines = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert lines is not None
    group, entry = (line.strip() for line in lines[1].strip().splitlines())
    assert group == f'[project.entry-points."{registry.PLUG_INS.group}"]'
    assert entry == 'copy_word = "my_tasks:CopyWord"'
    entries = {"copy_word": "CopyWord"}
    install(tmp_path / "site", monkeypatch, "my_tasks", source, registry.PLUG_INS, entries)


def test_a_task_of_ones_own_is_evaluated_and_reported(
    package: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    words = 'tasks.copy_word.words=["31337","02468","90210"]'
    run(arguments=[str(BUNDLED), "tasks=[copy_word]", words, f"results={results}"])
    said = capsys.readouterr()
    assert "model: copy_word: " in said.err and "up to 18 generated, 1 batch\n" in said.err
    assert "Copied words: greedy, 6 tokens" in said.err
    assert said.err.index("copy_word: ") < said.err.index("computed by transformers")
    (model,) = read_results(results / "results.json")
    copied = model.tasks["copy_word"]
    assert copied.to_json()["words"] == ["31337", "02468", "90210"] and copied.rate == 1.0  # type: ignore[attr-defined]
    written = json.loads((results / "results.json").read_text())
    assert written["models"][0]["tasks"]["copy_word"]["answers"] == ["31337", "02468", "90210"]
    report = (results / "report.md").read_text()
    assert "## Words copied" in report and "| model | 100% |" in report and "](copy_word.png)" in report
    assert (results / "copy_word.png").read_bytes().startswith(b"\x89PNG") and "100%" in said.out


def test_the_recipe_is_evaluated_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(tmp_path, monkeypatch, code_in("CONTRIBUTING.md", "### Add a task"))
    run(arguments=[str(BUNDLED), "tasks=[copy_word]", f"results={tmp_path / 'results'}"])
    said = capsys.readouterr()
    assert "model: copy_word: " in said.err and "up to 12 generated, 1 batch\n" in said.err
    assert "Words copied: greedy, 6 tokens" in said.err
    (model,) = read_results(tmp_path / "results" / "results.json")
    assert model.tasks["copy_word"].rate == 1.0  # type: ignore[attr-defined]
    assert "| model | 100% |" in (tmp_path / "results" / "report.md").read_text()
    explained = describe_tasks()
    assert "tasks.copy_word   Whether the model gives back a word that it was told to remember." in explained
    assert "tasks.copy_word.words=['12345', '90210']" in explained
    with pytest.raises(ValueError, match=r"^tasks\.copy_word\.words: required at least one"):
        run(arguments=[str(BUNDLED), "tasks=[copy_word]", "tasks.copy_word.words=[]"])


def test_the_recipes_verdict_is_a_question_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = code_in("CONTRIBUTING.md", "### Add a task")
    verdict = textwrap.indent(code_in("CONTRIBUTING.md", "`verdicts(models)` may say"), "    ")
    imported = "from nemo_pi.evaluation.verdicts import Finding, Verdict\n"
    declare(tmp_path, monkeypatch, imported + recipe + "\n" + verdict)
    run(arguments=[str(BUNDLED), "tasks=[copy_word]", f"results={tmp_path / 'results'}"])
    page = (tmp_path / "results" / "report.html").read_text()
    assert '<h2 id="does-it-copy-a-word-h">Does it copy a word?</h2>' in page
    assert "Yes: model." in page and "100% came back" in page
    assert "## Does it copy a word?" in (tmp_path / "results" / "report.md").read_text()


def test_its_mistakes_name_the_key(package: None) -> None:
    with pytest.raises(ValueError, match=r"^tasks\.copy_word\.tokens: required ≥ 1; given 0"):
        run(arguments=[str(BUNDLED), "tasks=[copy_word]", "tasks.copy_word.tokens=0"])
