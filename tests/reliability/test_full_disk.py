"""Disks that are too small: foreseen, called by their name, and nothing half-written left on them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from nemo_pi.checkpoint.distributed import save_distributed
from nemo_pi.checkpoint.integrity import verify
from nemo_pi.checkpoint.retention import complete_checkpoints
from nemo_pi.errors import CheckpointError
from tests.integration.test_resume import SIX_STEPS
from tests.integration.world import World
from tests.reliability.figures import record

Disk = Callable[[int], Path]
KIB = 1024
BYTES = 256 * KIB
META: dict[str, Any] = {"shape": {}, "extension": {}, "global_step": 1, "consumed_samples": 8}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes a disk of so many bytes, in memory."""
    mounted: list[Path] = []

    def make(size: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def state() -> dict[str, Any]:
    return {"weights": {"a": ShardedTensor.from_rank_offsets("a", torch.ones(BYTES // 4))}, "lr": 1e-3}


def fails_as_a_full_disk(root: Path) -> None:
    """A second save fails for want of space and leaves the first, and nothing else."""
    save_distributed(root / "step_00000001", state(), META)
    with pytest.raises(CheckpointError, match="the disk is full"):
        save_distributed(root / "step_00000002", state(), {**META, "global_step": 2})
    assert [path.name for path in root.iterdir()] == ["step_00000001"]
    verify(root / "step_00000001")
    assert complete_checkpoints(root) == [root / "step_00000001"]


def test_a_save_that_has_no_room_is_not_begun(disk: Disk, one_rank: None) -> None:
    fails_as_a_full_disk(disk(BYTES + 200 * KIB))


def unforeseen(disk: Disk, sizes: range, monkeypatch: pytest.MonkeyPatch) -> int:
    """Somebody else fills the disk meanwhile: the writers themselves run out of it, wherever they are."""
    monkeypatch.setattr("nemo_pi.checkpoint.dcp_save.check_space", lambda *_, **__: None)
    for size in sizes:
        fails_as_a_full_disk(disk(BYTES + size * KIB))
    return len(sizes)


def test_a_disk_that_fills_up_meanwhile_is_called_full(
    disk: Disk, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unforeseen(disk, range(40, 300, 100), monkeypatch)


@pytest.mark.attack
def test_disks_of_many_sizes(disk: Disk, one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = unforeseen(disk, range(28, 280, 8), monkeypatch)
    record("a disk (tmpfs) that fills up at some point of a save", sizes, sizes, "called full, nothing left")


def test_a_run_says_before_it_begins_that_there_is_no_room(disk: Disk, world: World) -> None:
    folder = disk(4096 * KIB)
    checkpoints = f"exp_manager.checkpoint_callback_params.dirpath={folder}/checkpoints"
    # A plan is often made on another machine than the run: it says how much is free, and refuses nothing.
    planned = world.run("no-room-planned", checkpoints, "dry_run=true")
    planned.finished.check()
    assert "free" in planned.finished.out
    run = world.run("no-room", checkpoints)
    assert run.finished.statuses == (2,)
    assert "of free space for one checkpoint" in run.finished.err and "Traceback" not in run.finished.err
    assert list(folder.iterdir()) == []


def test_logs_on_a_disk_that_fills_up_do_not_end_a_run(disk: Disk, world: World, tmp_path: Path) -> None:
    logs = disk(2048 * KIB)
    run = world.run(
        "logs-fill-up",
        *SIX_STEPS,
        f"exp_manager.explicit_log_dir={logs}",
        f"exp_manager.checkpoint_callback_params.dirpath={tmp_path}/checkpoints",
        fault=("fill_disk_at_step", 2, str(logs)),
    )
    run.finished.check()
    assert len(complete_checkpoints(tmp_path / "checkpoints")) == 3
    again = world.run(
        "logs-full",
        *SIX_STEPS,
        f"exp_manager.explicit_log_dir={logs}",
        f"exp_manager.checkpoint_callback_params.dirpath={tmp_path}/others",
    )
    assert again.finished.statuses == (2,)
    assert "Traceback" not in again.finished.err
    assert "No space left" in again.finished.err and "exp_manager.exp_dir" in again.finished.err
