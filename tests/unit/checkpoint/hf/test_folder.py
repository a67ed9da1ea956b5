"""Finding and reading safetensors: every way a folder can be wrong, and slices against whole tensors."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.errors import CheckpointError


@pytest.fixture
def sharded(sharded_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sharded_llama, tmp_path / "copy"))


def test_headers_say_what_the_tensors_are(sharded_llama: Path) -> None:
    weights = HuggingFaceWeights(sharded_llama)
    assert len(set(weights.file_of.values())) > 2
    for file in sharded_llama.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert weights.sizes[name] == tuple(tensor.shape)
            assert weights.dtypes[name] == "bfloat16"


@pytest.mark.parametrize("dim", [0, 1])
def test_slices_are_those_of_the_whole(llama: Path, dim: int) -> None:
    weights = HuggingFaceWeights(llama)
    name = "model.layers.1.mlp.down_proj.weight"
    whole = load_file(llama / "model.safetensors")[name]
    for part in range(4):
        assert torch.equal(weights.read(name, dim, part, 4), whole.chunk(4, dim)[part])
    assert torch.equal(weights.read(name), whole)
    assert torch.equal(weights.rows(name, 5, 7), whole[5:12])


def test_a_slice_that_does_not_divide(llama: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tensor-parallel size 7.*given 96"):
        HuggingFaceWeights(llama).read("model.embed_tokens.weight", 0, 0, 7)


def test_shards_without_an_index_are_read_all(sharded: Path, sharded_llama: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    assert HuggingFaceWeights(sharded).sizes == HuggingFaceWeights(sharded_llama).sizes


def test_a_missing_shard_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    next(iter(sharded.glob("model-00002-*"))).unlink()
    with pytest.raises(CheckpointError, match="shards, as model-00001"):
        HuggingFaceWeights(sharded)


def test_a_missing_shard_with_an_index(sharded: Path) -> None:
    shard = next(iter(sharded.glob("model-00002-*")))
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        HuggingFaceWeights(sharded)


def test_an_index_that_points_elsewhere(sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.safetensors").write_bytes(b"")
    index = sharded / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["lm_head.weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"lie in this folder.*elsewhere"):
        HuggingFaceWeights(sharded)


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 300, "a\0b", 5, None, ["x"]], ids=repr)
def test_an_index_that_names_no_file(sharded: Path, name: object) -> None:
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(CheckpointError, match="weight_map: required files that lie in this folder"):
        HuggingFaceWeights(sharded)


def test_files_that_only_look_like_shards(sharded: Path, sharded_llama: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    (sharded / "model-a-of-b.safetensors").write_bytes(b"")
    assert HuggingFaceWeights(sharded).sizes == HuggingFaceWeights(sharded_llama).sizes


def test_an_index_without_a_map(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        HuggingFaceWeights(sharded)


@pytest.mark.parametrize("keep", [0, 4, 300, -1])
def test_a_truncated_file(sharded: Path, keep: int) -> None:
    shard = next(iter(sharded.glob("model-00001-*")))
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=f"{shard.name}.*complete safetensors"):
        HuggingFaceWeights(sharded)


def test_a_file_larger_than_the_machine_can_map(tmp_path: Path) -> None:
    """It takes no room on the disk; Linux refuses to map what its memory could never hold."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("vm.overcommit_memory=1: this machine maps files of any size")
    rows = 4 * psutil.virtual_memory().total // 2048
    tensor = {"dtype": "BF16", "shape": [rows, 1024], "data_offsets": [0, rows * 2048]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + rows * 2048)
    with pytest.raises(CheckpointError, match=r"GiB: .*mmap.*max_shard_size='5GB'"):
        HuggingFaceWeights(tmp_path)


def test_a_tensor_stored_twice(sharded: Path) -> None:
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    save_file({**load_file(second), **load_file(first)}, second)
    with pytest.raises(CheckpointError, match="each tensor in one file"):
        HuggingFaceWeights(sharded)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match="convert them to safetensors"):
        HuggingFaceWeights(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no safetensors file"):
        HuggingFaceWeights(tmp_path)


def test_quantised_dtypes_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a.*I8"):
        HuggingFaceWeights(tmp_path)


def test_stored_inverse_frequencies_are_passed_over(tmp_path: Path) -> None:
    tensors = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2), "a": torch.zeros(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert list(HuggingFaceWeights(tmp_path).sizes) == ["a"]


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2), "b": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    weights = HuggingFaceWeights(tmp_path)
    weights.check({"a": (2,), "b": (3, 4)}, also_allowed=frozenset())
    weights.check({"a": (2,)}, also_allowed=frozenset({"b"}))
    with pytest.raises(CheckpointError, match=r"tensor c; given none \(1 missing\)"):
        weights.check({"a": (2,), "b": (3, 4), "c": (1,)}, also_allowed=frozenset())
    with pytest.raises(CheckpointError, match=r"given b \(1 unexpected\)"):
        weights.check({"a": (2,)}, also_allowed=frozenset())
    with pytest.raises(CheckpointError, match=r"b of shape \[4, 3\]; given shape \[3, 4\]"):
        weights.check({"a": (2,), "b": (4, 3)}, also_allowed=frozenset())


def test_all_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    """Tensors of several layers as one; more than a dozen kinds of them counted."""
    stored = {f"layers.{n}.a": torch.zeros(2) for n in (0, 1, 2, 5)} | {"b": torch.zeros(3, 4)}
    save_file({**stored, "extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    expected = {f"layers.{n}.a": (3,) for n in (0, 1, 2)} | {f"layers.{n}.c": (1,) for n in range(3)}
    with pytest.raises(CheckpointError) as caught:
        HuggingFaceWeights(tmp_path).check(expected | {"b": (3, 4), "d": (1,)}, also_allowed=frozenset())
    assert caught.value.required == (
        "tensors layers.{0-2}.c, d; only tensors of this architecture; layers.{0-2}.a of shape [3]"
    )
    assert caught.value.given == "none (4 missing); extra, layers.5.a (2 unexpected); shape [2]"
    with pytest.raises(CheckpointError, match=r"tensors k0, k1,.* k11 and 8 more; .*\(20 missing\)"):
        HuggingFaceWeights(tmp_path).check({f"k{n}": (1,) for n in range(20)}, also_allowed=frozenset(stored))


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="required a model's tensors; given weights without any"):
        HuggingFaceWeights(tmp_path)


def test_links_into_the_hub_s_cache_are_read_and_others_are_not(llama: Path, tmp_path: Path) -> None:
    """As huggingface_hub lays out a snapshot: every file a link to a blob that its hash names."""
    cached = tmp_path / "models--org--name"
    snapshot, blobs = cached / "snapshots" / ("0" * 40), cached / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for file in (llama / "model.safetensors", llama / "config.json"):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    summary = read_summary(snapshot)
    assert summary.shape == read_summary(llama).shape
    name = "model.embed_tokens.weight"
    assert torch.equal(HuggingFaceWeights(snapshot).read(name), HuggingFaceWeights(llama).read(name))
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(llama / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: required a file of this folder"):
        HuggingFaceWeights(snapshot)
