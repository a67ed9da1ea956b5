"""Pickled weights: the same tensors as safetensors of the same model, and no code from them runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nemo_pi.checkpoint.hf.pickled import PickledWeights
from nemo_pi.checkpoint.hf.rewrite import rewrite_pickled
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import CheckpointError
from tests.unit.checkpoint.models import assert_same_bits, stored_tensors


def pickle(source: Path, folder: Path, shards: int = 1, index: bool = True, zipped: bool = True) -> Path:
    """A copy of a folder with its weights as transformers 4 saved them."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = stored_tensors(source)
    names = list(tensors)
    files = [f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" for i in range(shards)]
    files = ["pytorch_model.bin"] if shards == 1 else files
    for number, file in enumerate(files):
        part = {name: tensors[name] for name in names[number::shards]}
        torch.save(part, folder / file, _use_new_zipfile_serialization=zipped)
    if shards > 1 and index:
        weight_map = {name: files[number % shards] for number, name in enumerate(names)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("llama", {}),
        ("sharded_llama", {"shards": 3}),
        ("llama", {"shards": 3, "index": False}),
        ("mistral", {"zipped": False}),
    ],
)
def test_the_same_bits_as_safetensors(
    model: str, how: dict, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(model)
    source = pickle(folder, tmp_path / "pickled", **how)
    rewrite_pickled(source, tmp_path / "new")
    assert_same_bits(stored_tensors(tmp_path / "new"), stored_tensors(folder))
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "new" / name).read_text()) == json.loads((folder / name).read_text())
    assert read_summary(tmp_path / "new").shape == read_summary(folder).shape


def test_a_tied_matrix_that_is_stored_twice_is_written_once(tied_llama: Path, tmp_path: Path) -> None:
    """As torch pickled them before safetensors: two names, one storage."""
    source = pickle(tied_llama, tmp_path / "pickled")
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    torch.save(tensors, source / "pytorch_model.bin")
    rewrite_pickled(source, tmp_path / "new")
    assert_same_bits(stored_tensors(tmp_path / "new"), stored_tensors(tied_llama))
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    torch.save(tensors, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="given another matrix"):
        rewrite_pickled(source, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "other"))] == []


def test_another_dtype_is_transformers_own(llama: Path, tmp_path: Path) -> None:
    rewrite_pickled(pickle(llama, tmp_path / "pickled"), tmp_path / "new", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    wanted = {name: tensor.bfloat16() for name, tensor in stored_tensors(llama).items()}
    assert model.dtype is torch.bfloat16
    assert_same_bits(stored_tensors(tmp_path / "new"), wanted)


class Runs:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused(zipped: bool, llama: Path, tmp_path: Path) -> None:
    source = pickle(llama, tmp_path / "pickled")
    torch.save(
        {"a": torch.zeros(2), "b": Runs(tmp_path / "ran")},
        source / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match="exec"):
        rewrite_pickled(source, tmp_path / "new")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.zeros(2)}}, "'state_dict': dict"),
        ([torch.zeros(2)], "given list"),
        ({}, "given nothing"),
        ({"a": torch.zeros(2, dtype=torch.int8)}, "a: required one of the dtypes.*int8"),
        ({f"{i}.a": torch.zeros(2) for i in range(5)}, r"layers\.\{0-3\}\.input.*missing.*5 unexpected"),
    ],
    ids=["nested", "list", "empty", "int8", "foreign"],
)
def test_what_is_no_state_dict_is_named(content: object, message: str, llama: Path, tmp_path: Path) -> None:
    source = pickle(llama, tmp_path / "pickled")
    torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        rewrite_pickled(source, tmp_path / "new")


def test_a_damaged_file_and_a_missing_shard_are_named(llama: Path, tmp_path: Path) -> None:
    source = pickle(llama, tmp_path / "pickled", shards=3)
    first, second, _ = sorted(source.glob("*.bin"))
    first.write_bytes(first.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=first.name):
        PickledWeights(source)
    second.unlink()
    with pytest.raises(CheckpointError, match=second.name):
        PickledWeights(source)
