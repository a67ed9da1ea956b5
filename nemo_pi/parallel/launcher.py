"""What a launcher has told this process, known before any process group and without importing Megatron."""

from __future__ import annotations

import os

from torch import distributed as dist


def launched_world_size() -> int:
    """Ranks that ensure_process_group joins: torchrun's WORLD_SIZE, 1 without a launcher.

    Slurm's own variables do not count: they also stand in the shell of an allocation, where one process is
    started by hand.
    """
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_global_zero() -> bool:
    """Whether this rank prints and writes shared files."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return int(next((rank for rank in ranks if rank), 0)) == 0
