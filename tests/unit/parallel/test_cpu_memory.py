"""The allocator setting, seen in the page faults of a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import resource, sys
if sys.argv[1] == "keep":
    from nemo_pi.parallel.cpu_memory import keep_freed_memory
    keep_freed_memory()
def touch():
    len(b"x" * (64 << 20))
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    return int(subprocess.check_output([sys.executable, "-c", SCRIPT, mode], text=True, cwd=ROOT))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is on Linux only")
def test_freed_memory_is_used_again() -> None:
    """64 MiB five times over: each needs new pages by default, none once memory is kept."""
    assert page_faults("keep") * 10 < page_faults("default")
