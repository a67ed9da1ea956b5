"""Work that fails on every rank or on none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from nemo_pi.checkpoint.collective import gather_objects, on_first, rank_in, size_of, together
from nemo_pi.errors import CheckpointError
from tests.unit.checkpoint.models import run_ranks


def test_without_distributed_set_up() -> None:
    assert (rank_in(None), size_of(None), gather_objects(5, None)) == (0, 1, [5])
    assert together("work", lambda: 7, None) == 7
    with pytest.raises(ZeroDivisionError):
        together("work", lambda: 1 / 0, None)


def on_two_ranks(folder: Path) -> None:
    rank = dist.get_rank()
    assert gather_objects(rank * 10, None) == [0, 10]
    assert together("work", lambda: rank, None) == rank

    def fail() -> None:
        if rank == 1:
            raise ValueError("only here")

    with pytest.raises(ValueError if rank == 1 else CheckpointError, match="only here"):
        together("work", fail, None)
    on_first("work", lambda: (folder / f"rank{rank}").write_text("x"), None)
    assert [path.name for path in folder.iterdir()] == ["rank0"], "done on every rank once it is done"
    with pytest.raises(ZeroDivisionError if rank == 0 else CheckpointError, match="zero"):
        on_first("work", lambda: 1 / 0, None)


def test_on_two_ranks(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    run_ranks(tmp_path, on_two_ranks, tmp_path / "folder", world=2)
