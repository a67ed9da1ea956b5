"""What is run in processes of its own, to be killed: saves of a small state into a run's folder."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Operations on files as Python's audit hooks name them, whoever does them.
_OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.utime", "os.chmod")


def arm(root: Path, at: Callable[[int], None]) -> None:
    """Calls `at` with its number before each operation on a file below `root`, from now on."""
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPERATIONS and any(str(root) in str(part) for part in arguments[:2]):
            count[0] += 1
            at(count[0])

    sys.addaudithook(hook)


def kill_at(number: int) -> Callable[[int], None]:
    """Ends the process before operation `number`, at once."""

    def at(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def save(
    root: Path, step: int, keep: int = 0, killed_before: int = 0, counted_in: Path | None = None
) -> None:
    """Saves `step` as a run does: under its lock, and then removing old ones.

    Args:
        root: of the checkpoints.
        step: also the value of every weight.
        keep: newest to keep; 0: all.
        killed_before: operation on a file that the process does not live to see; 0: none.
        counted_in: file that gets the number of operations.
    """
    from nemo_pi.checkpoint.distributed import save_distributed
    from nemo_pi.checkpoint.lock import lock_inside, sole_writer
    from nemo_pi.checkpoint.retention import checkpoint_folder
    from nemo_pi.checkpoint.verified import prune_together, remember

    _join()
    seen = [0]
    arm(root, kill_at(killed_before) if killed_before else lambda count: seen.__setitem__(0, count))
    meta = {"shape": {}, "extension": {}, "global_step": step, "consumed_samples": 8 * step}
    with sole_writer(lock_inside(root), root, "a test", "wait"):
        folder = checkpoint_folder(root, step)
        save_distributed(folder, _state(float(step)), meta, clear_name=True)
        remember(folder)
        if keep:
            prune_together(root, keep)
    if counted_in is not None:
        counted_in.write_text(str(seen[0]))


def values(root: Path, out: Path) -> None:
    """Writes the value of each whole checkpoint's weights, the newest last."""
    from nemo_pi.checkpoint.distributed import load_distributed
    from nemo_pi.checkpoint.retention import complete_checkpoints

    _join()
    found = [load_distributed(path, _state(0.0))["weights"]["a"] for path in complete_checkpoints(root)]
    assert all((weights == weights[0, 0]).all() for weights in found)
    out.write_text(" ".join(str(int(weights[0, 0])) for weights in found))


def _state(value: float) -> dict[str, Any]:
    import torch
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    return {"weights": {"a": ShardedTensor.from_rank_offsets("a", torch.full((64, 64), value))}, "lr": 1e-3}


def _join() -> None:
    from nemo_pi.parallel import groups

    groups.ensure_process_group()
