"""Tokenizer and generation files beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from nemo_pi.checkpoint.hf.tokenizer import (
    copy_tokenizer,
    extended_generation_config,
    has_tokenizer,
    special_token_ids,
    tokenizer_files,
    tokenizer_folder,
)
from nemo_pi.errors import CheckpointError

DEMO = Path(__file__).resolve().parents[4] / "demo" / "model"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512, "bos_token": "<s>"}')
    (folder / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    (folder / "tokenization_custom.py").write_text("raise SystemExit")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_known_files_are_copied_and_nothing_else(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    copy_tokenizer(source, target)
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert {path.name for path in target.iterdir()} == names
    assert all((target / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_the_maximum_length_is_written(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    copy_tokenizer(source, target, max_length=4096)
    values = json.loads((target / "tokenizer_config.json").read_text())
    assert values == {"model_max_length": 4096, "bos_token": "<s>"}


def test_the_maximum_length_is_written_where_there_was_no_config(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer_config.json").unlink()
    copy_tokenizer(source, tmp_path, max_length=4096)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"model_max_length": 4096}


def test_a_tokenizer_is_found_by_folder_or_file(source: Path, tmp_path: Path) -> None:
    assert tokenizer_folder(source) == source
    assert tokenizer_folder(str(source / "tokenizer.json")) == source
    assert not has_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer_path.*tokenizer\.json"):
        tokenizer_folder(tmp_path)


def test_named_chat_templates_travel_along(source: Path, tmp_path: Path) -> None:
    """As transformers saves a tokenizer with several: a file each, the default one beside them."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "tool_use": "TOOLS", "rag": "{{ 1 }}"}
    tokenizer.save_pretrained(source)
    (source / "additional_chat_templates" / "evil.py").write_text("raise SystemExit")
    copy_tokenizer(source, tmp_path)
    copied = sorted(path.name for path in (tmp_path / "additional_chat_templates").iterdir())
    assert copied == ["rag.jinja", "tool_use.jinja"]
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template


def test_a_template_that_is_a_link_out_of_the_folder_is_not_copied(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("xyzzy")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "a.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"a\.jinja: required a file of this folder"):
        copy_tokenizer(source, tmp_path)


@pytest.mark.parametrize(("name", "kept"), [("mine.json", "tokenizer.json"), ("v3.model", "tokenizer.model")])
def test_a_file_of_another_name_stands_alone(name: str, kept: str, source: Path, tmp_path: Path) -> None:
    """What lies beside it, and under which name, says nothing of it."""
    (source / name).write_text('{"mine": 1}')
    assert tokenizer_files(source / name) == {kept: source / name}
    (tmp_path / "target").mkdir()
    copy_tokenizer(source / name, tmp_path / "target")
    assert (tmp_path / "target" / kept).read_text() == '{"mine": 1}'
    assert not (tmp_path / "target" / "special_tokens_map.json").exists()


def test_special_tokens_are_found_by_their_names(source: Path) -> None:
    vocabulary = {"model": {"vocab": {"a": 0, "</s>": 7}}, "added_tokens": [{"id": 9, "content": "<s>"}]}
    (source / "tokenizer.json").write_text(json.dumps(vocabulary))
    (source / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}')
    assert special_token_ids(source) == {"bos_token_id": 9, "eos_token_id": 7, "pad_token_id": None}
    (source / "tokenizer.json").unlink()
    assert set(special_token_ids(source).values()) == {None}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_length": 512, "top_p": 0.9}, {"max_length": 4096, "top_p": 0.9}),
        ({"max_length": 200}, {"max_length": 200}),
        ({"eos_token_id": 2}, {"eos_token_id": 2}),
    ],
)
def test_generation_length_follows_the_window(given: dict, expected: dict) -> None:
    assert extended_generation_config(given, 512, 4096) == expected


def test_an_unknown_old_window_changes_nothing() -> None:
    assert extended_generation_config({"max_length": 512}, None, 4096) == {"max_length": 512}


@pytest.mark.parametrize(
    "values",
    [{"model": [1]}, {"model": 5}, {"added_tokens": [5]}, {"added_tokens": 5}, {"added_tokens": [{"id": 1}]}]
    + [{"added_tokens": [{"content": [], "id": 1}]}],
    ids=str,
)
def test_a_damaged_tokenizer_is_named(source: Path, values: dict) -> None:
    (source / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: required a tokenizer"):
        special_token_ids(source)
