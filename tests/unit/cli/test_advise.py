"""examples/advise.py on the bundled model, and what it says to those who ask for what cannot be."""

from __future__ import annotations

import json
import lzma
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.cli import advise
from nemo_pi.config.load import resolve
from nemo_pi.errors import ConfigError, DataError
from tests.unit.config.test_conf import composed

ROOT = Path(__file__).resolve().parents[3]
MODEL, HELDOUT = ROOT / "demo" / "model", ROOT / "demo" / "text" / "heldout.jsonl.xz"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginnings of three held-out works."""
    path = tmp_path_factory.mktemp("text") / "three.jsonl"
    with lzma.open(HELDOUT, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(3), strict=False)]
    path.write_text("".join(json.dumps({"text": text[:12_000]}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def advised(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], Path]]:
    folder = tmp_path_factory.mktemp("advice")
    words = [str(MODEL), "--documents", str(documents), "--target-window", "1024", "--windows", "1"]
    words += ["--methods", "none,linear,yarn", "--minutes", "60", "--results", str(folder)]
    assert advise.run(arguments=words) == 0
    yield words, folder


def test_says_its_cost_and_ranks(advised: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A second start measures nothing and says the same."""
    words, folder = advised
    page = (folder / "advice.md").read_text()
    assert advise.run(arguments=words) == 0
    out, err = capsys.readouterr()
    assert (folder / "advice.md").read_text() == page
    assert re.search(r"cost +[\d,]+ tokens, about [\d.]+ of the 60 minutes", err)
    assert "measurements of an earlier start are kept" in err
    assert out.index(" yarn") < out.index(" linear")
    for part in ("pos_scaling_type: yarn", "Largest |h_j|", "OlmPool", "400 steps", "How it was measured"):
        assert part in out and part in page, part
    assert (folder / "perplexity.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_it_prints_is_a_run_that_can_be_planned(advised: tuple[list[str], Path]) -> None:
    page = (advised[1] / "advice.md").read_text()
    commands = re.findall(r"^python examples/extend_context\.py (.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert commands
    for command in commands:
        words = shlex.split(command.replace("\\\n", " "))
        run = resolve(composed(*words), world_size=1, summary=read_summary(MODEL))
        assert run.extension.method == "yarn" and run.extension.target_window >= 1024 and run.dry_run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target-window", "512"], r"--target-window.*512.*--target-window 4096"),
        (["--target-window", "1"], "--target-window.*at least 2"),
        (
            ["--target-window", "1000000"],
            r"a document of more than 1,000,000 tokens.*smaller --target-window",
        ),
        (["--target-window", "1024", "--minutes", "0"], "--minutes"),
        (["--target-window", "1024", "--windows", "0"], "--windows"),
        (["--target-window", "1024", "--methods", "yran"], "--methods.*did you mean 'yarn'"),
        (["--target-window", "1024", "--original-window", "9"], "--original-window.*512"),
    ],
)
def test_mistakes_are_named_before_the_model_is_loaded(
    words: list[str], message: str, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advise, "HuggingFaceScorer", None)
    with pytest.raises((ConfigError, DataError), match=message):
        advise.run(arguments=[str(MODEL), "--documents", str(documents), *words])


def test_too_little_time_is_refused_before_it_measures(documents: Path, tmp_path: Path) -> None:
    words = ["--documents", str(documents), "--target-window", "1024", "--minutes", "1e-4"]
    with pytest.raises(ConfigError, match="--minutes"):
        advise.run(arguments=[str(MODEL), *words, "--results", str(tmp_path)])
