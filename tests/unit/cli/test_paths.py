"""Paths that are not there, all at once, with what may have been meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_pi.cli import evaluate, generate
from nemo_pi.cli.paths import check_paths
from nemo_pi.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def test_all_of_them_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as caught:
        evaluate.run(arguments=["/no/such", "demo/modl", "documents=/no/such.jsonl"])
    error = caught.value
    assert error.field == "models, documents"
    assert error.given == "no such path: /no/such, demo/modl, /no/such.jsonl"
    assert error.fix == "did you mean demo/model (for demo/modl)?"


def test_generation_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = ["--model", "dem/modell", "--prompt-file", "none.txt", "--max-new-tokens", "1"]
    with pytest.raises(
        ConfigError, match=r"^--model, --prompt-file: .*did you mean demo/model \(for dem/modell"
    ):
        generate.run(arguments=words)


def test_paths_that_exist_are_let_through(tmp_path: Path) -> None:
    check_paths([("models", tmp_path), ("documents", None), ("tokenizer", "~")])
    with pytest.raises(ConfigError, match=r"^documents: .*To fix: correct the path$"):
        check_paths([("models", tmp_path), ("documents", tmp_path / "zzz")])
