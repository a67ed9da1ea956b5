"""Shards: how they are dealt, how much is held, what failing leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nemo_pi.checkpoint.hf.shards import ShardWriter, plan_shards
from nemo_pi.errors import CheckpointError


def test_shards_are_closed_before_they_overflow() -> None:
    sizes = {"a": 4, "b": 4, "c": 3, "d": 20, "e": 1, "f": 9}
    assert plan_shards(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    assert plan_shards(sizes, 11) == [["a", "b", "c"], ["d"], ["e", "f"]]
    assert plan_shards(sizes, 1000) == [list(sizes)]


def fp32(_: str) -> torch.dtype:
    return torch.float32


def fill(folder: Path, tensors: dict[str, torch.Tensor], max_bytes: int) -> int:
    """Writes tensors and returns the most bytes that were ever held."""
    writer = ShardWriter(folder, {name: tuple(t.shape) for name, t in tensors.items()}, fp32, max_bytes)
    held = 0
    for name, tensor in tensors.items():
        writer.add(name, tensor)
        held = max(held, sum(t.numel() * t.element_size() for t in writer.pending.values()))
    writer.finish()
    assert not writer.pending
    return held


TENSORS = {f"t{n}": torch.full((10,), float(n)) for n in range(7)}  # 40 bytes each


def test_never_more_than_a_shard_is_held(tmp_path: Path) -> None:
    assert fill(tmp_path, TENSORS, 100) <= 100
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 280
    assert set(index["weight_map"].values()) == {f"model-0000{n}-of-00004.safetensors" for n in range(1, 5)}
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], TENSORS[name])


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    fill(tmp_path, TENSORS, 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_files_can_be_read_by_whoever_reads_the_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    fill(tmp_path, TENSORS, 1000)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640


def test_values_beyond_the_dtype_are_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, {"a": (2,)}, lambda _: torch.float16, 100)
    writer.add("a", torch.tensor([1.0, 7e4]))
    with pytest.raises(CheckpointError, match=r"a: required values within.*float16; given up to 7e\+04"):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_infinities_of_the_model_are_kept(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, {"a": (2,)}, lambda _: torch.float16, 100)
    writer.add("a", torch.tensor([1.0, float("inf")]))
    writer.finish()
    assert load_file(tmp_path / "model.safetensors")["a"].tolist() == [1.0, float("inf")]


def test_a_failure_waits_for_the_end(tmp_path: Path) -> None:
    """The ranks that send must not be left waiting: later tensors are taken and dropped."""
    writer = ShardWriter(tmp_path / "gone", {"a": (1,), "b": (1,)}, fp32, 4)
    writer.add("a", torch.zeros(1))
    writer.add("b", torch.zeros(1))
    with pytest.raises(CheckpointError, match="complete export"):
        writer.finish()
