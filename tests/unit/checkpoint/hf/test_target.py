"""Which folders an export may replace, and the files it writes beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from nemo_pi.checkpoint.hf.config_write import build_config
from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.target import check_target, write_side_files
from nemo_pi.errors import CheckpointError
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

SHAPE = ModelShape(2, 64, 80, 8, 4, 16, 96)
SHORT = ContextExtension.unscaled(64, head_dim=16)
LONG = ContextExtension.build(original_window=64, target_window=512, method="linear", head_dim=16)
SOURCE = HuggingFaceSource(
    build_config(SHAPE, SHORT, None, "float32"), generation_config={"max_length": 64, "top_k": 3}
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    (tokenizer / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    write_side_files(folder, SHAPE, LONG, SOURCE, tokenizer, None)
    return folder


def values(path: Path) -> dict:
    return json.loads(path.read_text())


def test_lengths_follow_the_window(written: Path) -> None:
    assert values(written / "config.json")["max_position_embeddings"] == 512
    assert values(written / "tokenizer_config.json") == {"model_max_length": 512}
    assert values(written / "generation_config.json") == {"max_length": 512, "top_k": 3}


def test_dynamic_scaling_still_tells_the_tokenizer_its_target(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "out").mkdir()
    dynamic = ContextExtension.build(original_window=64, target_window=512, method="dynamic", head_dim=16)
    write_side_files(tmp_path / "out", SHAPE, dynamic, SOURCE, tmp_path, None)
    assert values(tmp_path / "out" / "config.json")["max_position_embeddings"] == 64
    assert values(tmp_path / "out" / "tokenizer_config.json") == {"model_max_length": 512}


def test_an_unextended_model_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length":   7}')
    (tmp_path / "out").mkdir()
    write_side_files(tmp_path / "out", SHAPE, SHORT, SOURCE, tmp_path, None)
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == '{"model_max_length":   7}'
    assert values(tmp_path / "out" / "generation_config.json") == SOURCE.generation_config
    assert values(tmp_path / "out" / "config.json") == SOURCE.config


def test_a_model_of_our_own_making_names_its_special_tokens(tmp_path: Path) -> None:
    """Where config.json is silent, transformers stops generating at token 2, whatever that is."""
    vocabulary = {"model": {"vocab": {"<|endoftext|>": 0}}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    (tmp_path / "out").mkdir()
    for tokenizer, eos in ((tmp_path, 0), (None, None)):
        write_side_files(tmp_path / "out", SHAPE, SHORT, None, tokenizer, "float32")
        theirs = AutoConfig.from_pretrained(tmp_path / "out")
        assert (theirs.bos_token_id, theirs.eos_token_id) == (None, eos)


def test_a_folder_of_ours_may_be_replaced(written: Path, tmp_path: Path) -> None:
    check_target(written)
    check_target(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")


@pytest.mark.parametrize("name", ["README.md", "sub/notes.txt"])
def test_a_file_that_was_added_protects_the_folder(written: Path, name: str) -> None:
    (written / name).parent.mkdir(exist_ok=True)
    (written / name).write_text("mine")
    with pytest.raises(CheckpointError, match=f"other files \\({name}\\)"):
        check_target(written)
    check_target(written, overwrite=True)


def test_a_foreign_folder_or_file_is_protected(written: Path, tmp_path: Path) -> None:
    (written / "nemo_pi_export.json").unlink()
    with pytest.raises(CheckpointError, match="other files"):
        check_target(written)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="given a file"):
        check_target(tmp_path / "file")


@pytest.mark.parametrize("files", [5, None, "model.safetensors", [["model.safetensors"]], {"a": 1}], ids=repr)
def test_a_damaged_marker_claims_nothing(written: Path, files: object) -> None:
    check_target(written)
    (written / "nemo_pi_export.json").write_text(json.dumps({"files": files}))
    with pytest.raises(CheckpointError, match="a folder with other files"):
        check_target(written)


def test_files_in_folders_are_the_export_s_own_too(written: Path, tmp_path: Path) -> None:
    templates = tmp_path / "tokenizer" / "additional_chat_templates"
    templates.mkdir()
    (templates / "rag.jinja").write_text("{{ 1 }}")
    write_side_files(written, SHAPE, LONG, SOURCE, tmp_path / "tokenizer", None)
    assert "additional_chat_templates/rag.jinja" in values(written / "nemo_pi_export.json")["files"]
    check_target(written)
