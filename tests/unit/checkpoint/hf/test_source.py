"""What an export must say again of its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "dtype": "float16"}')
    tensors = {name: torch.zeros(2, dtype=torch.bfloat16) for name in ("a", "b")}
    save_file({**tensors, "norm": torch.zeros(2)}, tmp_path / "model.safetensors")
    return tmp_path


def test_storage_dtypes_are_those_of_the_files(folder: Path) -> None:
    """Not what config.json claims: the two differ in published models."""
    source = HuggingFaceSource.read(folder)
    assert [source.dtype_of(name) for name in ("a", "b", "norm")] == ["bfloat16", "bfloat16", "float32"]
    assert source.config == {"model_type": "llama", "dtype": "float16"}
    assert source.generation_config is None


def test_it_survives_json(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"top_p": 0.5}')
    source = HuggingFaceSource.read(folder)
    assert source.generation_config == {"top_p": 0.5}
    assert HuggingFaceSource.from_dict(json.loads(json.dumps(source.to_dict()))) == source


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "llama"},
        {"config": []},
        {"config": {}, "dtype": "load"},
        {"config": {}, "other_dtypes": {"a": "save"}},
        {"config": {}, "other_dtypes": []},
        {"config": {}, "other_dtypes": {"a": ["float32"]}},
        {"config": {}, "generation_config": [1]},
    ],
)
def test_something_else_is_refused(values: dict) -> None:
    with pytest.raises(CheckpointError, match="read_source_config"):
        HuggingFaceSource.from_dict(values)


def test_a_tied_matrix_under_the_output_layer_s_name_keeps_its_dtype(folder: Path) -> None:
    tensors = {name: torch.zeros(2, dtype=torch.bfloat16) for name in ("a", "b")}
    save_file({**tensors, "lm_head.weight": torch.zeros(2)}, folder / "model.safetensors")
    assert HuggingFaceSource.read(folder).dtype_of("model.embed_tokens.weight") == "float32"
