"""What examples/evaluate.py decides before a model is loaded; tests/integration run the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_pi.checkpoint.manifest import MANIFEST
from nemo_pi.cli.evaluate import choose_backend, parse, read_documents
from nemo_pi.data.tokenizer import ByteTokenizer
from nemo_pi.errors import ConfigError, DataError


@pytest.fixture
def distributed(tmp_path: Path) -> Path:
    (tmp_path / MANIFEST).write_text("{}")
    return tmp_path


def test_auto_takes_transformers_for_a_folder_on_one_rank_only(distributed: Path) -> None:
    folder = distributed / "huggingface"
    assert choose_backend(folder, "auto", 1) == "transformers"
    assert choose_backend(folder, "auto", 2) == "megatron"
    assert choose_backend(distributed, "auto", 1) == "megatron"


def test_a_request_is_kept_or_refused(distributed: Path) -> None:
    folder = distributed / "huggingface"
    assert choose_backend(folder, "megatron", 1) == "megatron"
    assert choose_backend(folder, "transformers", 1) == "transformers"
    for model, ranks in ((distributed, 1), (folder, 2)):
        with pytest.raises(ConfigError, match=r"^--backend: required megatron"):
            choose_backend(model, "transformers", ranks)


def test_documents_longer_than_the_window_are_read(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": length * "a"}) for length in (3, 9, 8)]
    lines.append('{"text": "a\u2028"}')  # ends a line for str.splitlines, but not for JSON lines
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_documents(path, ByteTokenizer(), 8) == [[97] * 9]
    with pytest.raises(DataError, match=r"more than 9 tokens.*longest of 9"):
        read_documents(path, ByteTokenizer(), 9)


@pytest.mark.parametrize("line", ["no json", '{"title": "x"}', '["text"]'])
def test_a_line_that_is_no_document_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=r"text\.jsonl:2"):
        read_documents(path, ByteTokenizer(), 1)


def test_windows_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments=["model", "--documents", "text.jsonl"])
    assert "--original-window, --target-window" in capsys.readouterr().err
