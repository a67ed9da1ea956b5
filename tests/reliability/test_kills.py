"""Processes that are killed while they save: what is left is whole, and the next one goes on from it."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import pytest

from nemo_pi.checkpoint.integrity import verify
from nemo_pi.checkpoint.lock import lock_inside
from nemo_pi.checkpoint.lock_file import holder_of
from nemo_pi.checkpoint.retention import complete_checkpoints
from tests.integration.launch import call
from tests.integration.test_resume import SIX_STEPS, assert_bit_identical
from tests.integration.world import World
from tests.reliability.figures import record
from tests.reliability.saves import save, values

FEW = 5


def operations(folder: Path) -> int:
    """How many a save makes that also removes the one before."""
    root, count = folder / "counted", folder / "count"
    call(save, root, 1, folder=folder / "w").check()
    call(save, root, 2, 1, 0, count, folder=folder / "w").check()
    return int(count.read_text())


def killed_before(number: int, folder: Path) -> None:
    """A save that is killed there leaves the one before or itself, and the next save cleans up."""
    root, out = folder / f"killed-{number}", folder / "out"
    call(save, root, 1, folder=folder / "w").check()
    killed = call(save, root, 2, 1, number, folder=folder / "w")
    assert killed.statuses == (-signal.SIGKILL,)
    whole = complete_checkpoints(root)
    assert whole, "every checkpoint is gone"
    for path in whole:
        verify(path)
    call(values, root, out, folder=folder / "w").check()
    assert out.read_text() in ("1", "1 2", "2")
    call(save, root, 3, 1, folder=folder / "w").check()
    call(values, root, out, folder=folder / "w").check()
    assert out.read_text() == "3"
    assert [path.name for path in root.iterdir()] == ["step_00000003"], "leftovers are gone"


def test_killed_before_some_operations_of_a_save(tmp_path: Path) -> None:
    total = operations(tmp_path)
    assert total > 20, "operations are counted"
    for number in random.Random(7).sample(range(1, total + 1), FEW):
        killed_before(number, tmp_path)


@pytest.mark.attack
def test_killed_before_every_operation_of_a_save(tmp_path: Path) -> None:
    total = operations(tmp_path)
    held = 0
    for number in range(1, total + 1):
        killed_before(number, tmp_path)
        held += 1
    record("SIGKILL before each operation on a file of a save that removes an older one", total, held)


@pytest.mark.attack
def test_killed_at_random_moments(world: World) -> None:
    """Started again until it has come to its end, it has the bits of one that was never killed.

    One rank: of several, a launcher ends the others that wait for the killed one to join.
    """
    steps = (*SIX_STEPS, "exp_manager.checkpoint_callback_params.every_n_train_steps=1")
    uninterrupted = world.reference(*steps)
    chance, kills, longest = random.Random(3), 0, 1.5
    for attempt in range(6):
        name = f"random-{attempt}"
        for _ in range(3):
            lock = lock_inside(world.folder / name / "results" / "run")
            thread = threading.Thread(target=_kill_holder, args=(lock, chance.uniform(0.0, longest)))
            thread.start()
            killed = world.run(name, *steps).finished.statuses == (-signal.SIGKILL,)
            thread.join()
            kills += killed
            longest *= 1.0 if killed else 0.8  # a fast machine has come to the end by then
        last = world.run(name, *steps)
        last.finished.check()
        assert_bit_identical(last, uninterrupted, validated=False)
    assert kills >= 10
    record("SIGKILL at random moments of a run, then started again: same bits", kills, kills)


def _kill_holder(lock: Path, seconds: float) -> None:
    """Kills the first rank some time after it has taken its folder; nothing where it has ended by then."""
    deadline = time.monotonic() + 60
    while (holder := holder_of(lock)) is None or not holder.writer.lives():
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    time.sleep(seconds)
    if holder.writer.lives():
        import os

        os.kill(holder.writer.pid, signal.SIGKILL)


def test_a_lock_is_no_obstacle_after_a_kill(tmp_path: Path) -> None:
    call(save, tmp_path / "root", 1, 0, 4, folder=tmp_path / "w")
    call(save, tmp_path / "root", 1, folder=tmp_path / "w").check()
    assert not lock_inside(tmp_path / "root").exists()
