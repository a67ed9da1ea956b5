"""Memory of this process, or of its GPU."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_mib() -> float:
    """Memory this process holds now: torch's allocations where there is a GPU, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / MIB
    return _from_status("VmRSS")


def peak_mib() -> float:
    """The most it has held since reset_peak()."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return _from_status("VmHWM")


def reset_peak() -> None:
    """Forgets the peak until now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    _CLEAR.write_text("5")  # proc(5): resets VmHWM


def _from_status(key: str) -> float:
    if not _STATUS.exists():
        raise RuntimeError(f"memory is read from {_STATUS}, which {sys.platform} does not have")
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
