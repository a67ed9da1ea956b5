"""Signs of life: who waits, and what a failed collective comes down to."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from nemo_pi.errors import DistributedError
from nemo_pi.parallel import groups, liveness
from tests.ports import free_port
from tests.unit.checkpoint.models import run_ranks


def stack_of(work: object) -> list:
    """The frames of a thread that is busy with `work`."""
    thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]
    thread.start()
    time.sleep(0.2)
    return list(liveness._frames(sys._current_frames()[thread.ident or 0]))


def test_a_thread_that_computes_or_reads_does_not_wait() -> None:
    assert not liveness._is_waiting(stack_of(lambda: time.sleep(5)))


def test_the_place_is_a_file_and_a_line() -> None:
    place = liveness._place(stack_of(lambda: time.sleep(5))[0])
    assert place.endswith("(<lambda>)") and "test_liveness.py:" in place


def test_one_rank_waits_for_nobody() -> None:
    liveness.start(1.0)
    with liveness.patient():
        assert liveness.explained(RuntimeError("Timed out waiting 1000ms")) is None


def one_is_missing(out: Path, port: int) -> None:
    """Rank 1 of three sleeps; both others say so, whichever their neighbours are."""
    groups.ensure_process_group()
    # As a launcher has it.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    kept = dist.TCPStore("127.0.0.1", port, is_master=dist.get_rank() == 0, wait_for_workers=False)
    liveness.start(0.05)
    assert kept is not None
    dist.all_reduce(torch.zeros(1))
    if dist.get_rank() == 1:
        time.sleep(12)
        return
    with pytest.raises(RuntimeError) as failed:
        dist.all_reduce(torch.zeros(1))
    explained = liveness.explained(failed.value)
    assert isinstance(explained, DistributedError)
    (out / str(dist.get_rank())).write_text(str(explained))
    liveness.stop()
    # Rank 0 keeps the store that rank 2 asks.
    time.sleep(6)


@pytest.mark.slow
def test_the_missing_rank_is_named(tmp_path: Path) -> None:
    run_ranks(tmp_path, one_is_missing, tmp_path, free_port(), world=3)
    for rank in (0, 2):
        assert f"rank {rank} waits for rank 1 (at " in (tmp_path / str(rank)).read_text()
