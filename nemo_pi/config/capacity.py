"""What this machine has for a run, beside what the plan says that it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_pi.config.memory import MemoryEstimate
from nemo_pi.config.resolved import ResolvedRun

_CGROUPS = (
    ("memory.max", "memory.current"),  # version 2, then 1
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Capacity:
    """Bytes of one rank."""

    device: int | None
    """Of the GPU; without one, this rank's share of the host's memory. None where nobody says."""
    host: int | None
    """This rank's share of the host's memory."""

    def lacks(self, estimate: MemoryEstimate) -> bool:
        """Whether an estimate is more than there is."""
        device = self.device is not None and estimate.total > self.device
        return device or (self.host is not None and estimate.host > self.host)


def capacity_of(run: ResolvedRun) -> Capacity:
    """What each rank of a run has on this machine, if all of them start on machines like it."""
    free = available_memory()
    host = None if free is None else free // ranks_of_a_node(run)
    if not torch.cuda.is_available():
        return Capacity(host, host)
    return Capacity(torch.cuda.get_device_properties(0).total_memory, host)


def ranks_of_a_node(run: ResolvedRun) -> int:
    """Ranks that share one machine's memory and disks."""
    return -(-run.parallel.world_size // int(run.trainer.get("num_nodes") or 1))


def available_memory(system: Path = Path("/")) -> int | None:
    """Bytes that processes here can still have: what Linux says, and less in a container with less.

    Args:
        system: root of /proc and /sys.

    Returns:
        None where Linux does not say.
    """
    try:
        text = (system / "proc/meminfo").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        return None
    least = int(found[1]) * 1024
    for limit, used in _CGROUPS:
        try:
            most, now = ((system / "sys/fs/cgroup" / name).read_text("ascii") for name in (limit, used))
            # "max" where there is no limit.
            least = min(least, max(0, int(most) - int(now)))
        except (OSError, ValueError):
            continue
    return least
