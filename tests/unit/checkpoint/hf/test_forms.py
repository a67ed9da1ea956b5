"""Exports as another class than the source's: tensors of several ranks, and their dtypes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.summary import read_source_config
from tests.unit.checkpoint.models import (
    assert_same_bits,
    filled_chunks,
    model_groups,
    run_ranks,
    save_transformers_model,
    stored_tensors,
)
from tests.unit.families.unshipped import saved_as


def _export(folder: Path, out: Path) -> None:
    summary, chunks = filled_chunks(folder)
    source = read_source_config(folder)
    known = (summary.shape, summary.extension)
    export_huggingface(chunks, *known, out, source_config=source, groups=model_groups())


@pytest.mark.parametrize(("family", "groups"), [("baichuan", 8), ("internlm2", 4)])
def test_two_ranks_write_the_llama_that_the_folder_was_made_of(
    family: str, groups: int, tmp_path: Path
) -> None:
    """Norms in fp32 among bf16 matrices."""
    llama = save_transformers_model(tmp_path / "llama", num_key_value_heads=groups, head_dim=8)
    file = llama / "model.safetensors"
    mixed = {name: x if "norm" in name else x.bfloat16() for name, x in load_file(file).items()}
    save_file(mixed, file, metadata={"format": "pt"})
    folder = saved_as(Path(shutil.copytree(llama, tmp_path / "own")), family)
    assert set(stored_tensors(folder)) != set(mixed)
    run_ranks(tmp_path, _export, folder, tmp_path / "out", world=2, tensor=2)
    assert_same_bits(stored_tensors(tmp_path / "out"), mixed)
