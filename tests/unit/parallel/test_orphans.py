"""Ranks that end with their launcher, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_pi.parallel import orphans
from nemo_pi.processes import start_of
from tests.ports import free_port

RANK = """
import os, sys, time
from nemo_pi.parallel import orphans
orphans.watch_launcher()
open(os.path.join(sys.argv[1], "rank" + os.environ.get("RANK", "")), "w").write(str(os.getpid()))
time.sleep(120)
"""


def wait_until(what: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.1)
    assert what()  # type: ignore[operator]


def gone(pid: int) -> bool:
    return start_of(pid) is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
@pytest.mark.parametrize("between", [False, True])
def test_no_rank_outlives_torchrun(number: signal.Signals, between: bool, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "wrapped.sh").write_text(f'#!/bin/bash\n"{sys.executable}" "$@"\nexit $?\n')
    script = [str(tmp_path / "rank.py"), str(tmp_path)]
    if between:  # as container launchers put a shell there
        script = ["--no-python", "bash", str(tmp_path / "wrapped.sh"), *script]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    torchrun = subprocess.Popen(
        [*command, f"--master-port={free_port()}", *script], stderr=subprocess.DEVNULL
    )
    files = [tmp_path / f"rank{rank}" for rank in range(2)]
    wait_until(lambda: all(file.is_file() and file.read_text() for file in files))
    pids = [int(file.read_text()) for file in files]
    try:
        torchrun.send_signal(number)
        torchrun.wait()
        wait_until(lambda: all(map(gone, pids)), 10)
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_process_without_launcher_outlives_its_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert orphans.launcher_pid() is None
    monkeypatch.setenv("RANK", "0")
    assert orphans.launcher_pid() is None, "srun's: Slurm ends its steps itself"


def test_lightnings_ranks_watch_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert orphans.launcher_pid() == os.getppid()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert orphans.launcher_pid() is None
