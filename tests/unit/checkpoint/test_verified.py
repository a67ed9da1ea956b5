"""Checkpoints compared with their hashes: which one to go on from, and which may go."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nemo_pi.checkpoint import verified as module
from nemo_pi.checkpoint.distributed import save_distributed
from nemo_pi.checkpoint.verified import damage_of, newest_whole, prune_together, remember
from nemo_pi.errors import CheckpointError
from tests.unit.checkpoint.test_distributed import META, toy

pytestmark = pytest.mark.usefixtures("single_rank")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three checkpoints, of which this process knows nothing."""
    monkeypatch.setattr(module, "_whole", {})
    for step in (1, 2, 3):
        save_distributed(tmp_path / f"step_{step:08d}", toy(float(step)), {**META, "global_step": step})
    return tmp_path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def names(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in root.iterdir())


def test_the_newest_whole_one_is_found(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    last = root / "step_00000003"
    assert newest_whole(last) == last
    flip(last / "__0_0.distcp")
    with caplog.at_level(logging.WARNING):
        assert newest_whole(last) == root / "step_00000002"
    assert "__0_0.distcp" in caplog.text
    assert newest_whole(last, [root / "step_00000002"]) == root / "step_00000001"
    flip(root / "step_00000001" / "common.pt")
    with pytest.raises(CheckpointError, match="damaged ones only"):
        newest_whole(last, [root / "step_00000002"])


def test_one_that_is_older_than_asked_for_is_the_newest_considered(root: Path) -> None:
    assert newest_whole(root / "step_00000002") == root / "step_00000002"


def test_a_damaged_one_pushes_no_whole_one_out(root: Path) -> None:
    flip(root / "step_00000003" / "__0_0.distcp")
    prune_together(root, 1)
    assert names(root) == [2, 3], "the damaged one does not count and stays"
    prune_together(root, 2)
    assert names(root) == [2, 3]


def test_whole_ones_are_pruned(root: Path) -> None:
    prune_together(root, 3)
    assert names(root) == [1, 2, 3]
    prune_together(root, 2)
    assert names(root) == [2, 3]


def test_what_was_read_is_read_again_only_when_it_has_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, read = root / "step_00000003", []
    original = module.check_checkpoint
    monkeypatch.setattr(module, "check_checkpoint", lambda *args: (read.append(1), original(*args)))
    assert damage_of(last) is None and damage_of(last) is None
    assert len(read) == 1
    remember(root / "step_00000002")
    assert damage_of(root / "step_00000002") is None and len(read) == 1
    flip(last / "common.pt")
    assert "common.pt" in (damage_of(last) or "") and len(read) == 2


def test_what_cannot_be_removed_ends_no_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "remove_checkpoints", refuse)
    with caplog.at_level(logging.WARNING):
        prune_together(root, 1)
    assert "could not be removed" in caplog.text
