"""Damage and malice: every file truncated, changed, missing or replaced is noticed before it is used."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from nemo_pi.checkpoint.distributed import load_distributed, save_distributed
from nemo_pi.checkpoint.files import sha256_of
from nemo_pi.checkpoint.integrity import verify
from nemo_pi.errors import CheckpointError
from tests.unit.checkpoint.models import start_rank, stop_rank

META: dict[str, Any] = {"shape": {}, "extension": {}, "global_step": 1, "consumed_samples": 8}
FILES = [".metadata", "__0_0.distcp", "common.pt", "metadata.json", "tokenizer/tokenizer.json"]


def state() -> dict[str, Any]:
    return {"a": ShardedTensor.from_rank_offsets("a", torch.arange(12.0)), "lr": 1e-3}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("integrity")
    (root / "tokenizer.json").write_text('{"a": 1}')
    start_rank()
    folder = save_distributed(root / "step_1", state(), META, tokenizer_path=root)
    stop_rank()
    return folder


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "copy"))


def test_a_whole_one(checkpoint: Path, single_rank: None) -> None:
    manifest = verify(checkpoint)
    assert sorted(manifest["files"]) == sorted(FILES)
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (checkpoint / name).stat().st_size
        assert entry["sha256"] == sha256_of(checkpoint / name)
    assert torch.equal(load_distributed(checkpoint, state())["a"], torch.arange(12.0))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "grown", "missing"])
def test_any_damage_is_found_and_named(damage: str, name: str, checkpoint: Path, single_rank: None) -> None:
    path = checkpoint / name
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
    elif damage == "grown":
        path.write_bytes(content + b"\0")
    else:
        path.unlink()
    with pytest.raises(CheckpointError) as found:
        verify(checkpoint)
    assert str(path) in str(found.value)
    with pytest.raises(CheckpointError):
        load_distributed(checkpoint, state())


def forge(checkpoint: Path, name: str, content: bytes) -> None:
    """Replaces a file and makes the manifest agree, as an attacker would."""
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / "nemo_pi.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": sha256_of(checkpoint / name)}
    (checkpoint / "nemo_pi.json").write_text(json.dumps(manifest))


class Attack:
    """Unpickles as the making of a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("name", [".metadata", "common.pt"])
@pytest.mark.parametrize("contents", [True, False])
def test_a_forged_pickle_is_not_run(
    name: str, contents: bool, checkpoint: Path, tmp_path: Path, single_rank: None
) -> None:
    victim = tmp_path / "victim"
    if name == ".metadata":
        forge(checkpoint, name, pickle.dumps(Attack(victim)))
    else:
        torch.save(Attack(victim), tmp_path / "forged")
        forge(checkpoint, name, (tmp_path / "forged").read_bytes())
    for read in (
        lambda: verify(checkpoint),
        lambda: load_distributed(checkpoint, state(), check_contents=contents),
    ):
        with pytest.raises(CheckpointError, match="none of its code was run"):
            read()
    assert not victim.exists()


def test_a_manifest_that_points_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((checkpoint / "nemo_pi.json").read_text())
    for name in ("../secret", str(tmp_path / "secret")):
        entry = {"bytes": 1, "sha256": sha256_of(tmp_path / "secret")}
        forged = {**manifest, "files": {**manifest["files"], name: entry}}
        (checkpoint / "nemo_pi.json").write_text(json.dumps(forged))
        with pytest.raises(CheckpointError, match="inside the checkpoint"):
            verify(checkpoint)
