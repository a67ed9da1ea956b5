"""The C allocator, set for training on a CPU."""

from __future__ import annotations

import ctypes
import sys

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Keeps freed activations in the process for the next step.

    By default glibc maps every large tensor anew and returns it when freed, so each step pays a page
    fault for every 4 KiB it touches. The peak does not grow; memory is only returned later.
    Does nothing on other systems.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        # Setting either of them also keeps glibc from moving both as it goes.
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    except (OSError, AttributeError):  # another C library
        return


def return_freed_memory() -> None:
    """Gives freed memory back to the system: what is read layer by layer would pile up between what stays.

    Does nothing on other systems.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return
