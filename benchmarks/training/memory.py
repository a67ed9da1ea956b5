"""Memory of this process, or of its GPU."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import torch

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3  # malloc.h


def resident_mib() -> float:
    """Memory this process holds now: torch's allocations where there is a GPU, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / MIB
    return from_status("VmRSS")


def peak_mib() -> float:
    """The most it has held since reset_peak()."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return from_status("VmHWM")


def reset_peak() -> None:
    """Forgets the peak until now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    forget_highest()


def forget_highest() -> None:
    """Lets VmHWM begin anew, from what is resident now."""
    _CLEAR.write_text("5")  # proc(5)


def return_freed_tensors() -> None:
    """What is free leaves the resident set; so does, from here on, every large tensor that is freed."""
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc_trim(0)
    libc.mallopt(_M_MMAP_THRESHOLD, 64 * 1024)


def from_status(key: str) -> float:
    """A figure of this process in MiB, as Linux names it: VmRSS (resident now) or VmHWM (at most)."""
    if not _STATUS.exists():
        raise RuntimeError(f"memory is read from {_STATUS}, which {sys.platform} does not have")
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
