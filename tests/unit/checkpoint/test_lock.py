"""One writer for a folder: who gets it, who waits, who takes over."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nemo_pi.checkpoint import lock as module
from nemo_pi.checkpoint.lock import check_held, lock_beside, lock_inside, sole_writer, writing
from nemo_pi.checkpoint.lock_file import holder_of
from nemo_pi.errors import CheckpointError
from nemo_pi.processes import this_process

HOLD = """
import sys, time
from pathlib import Path
from nemo_pi.checkpoint.lock import lock_inside, sole_writer
folder = Path(sys.argv[1])
with sole_writer(lock_inside(folder), folder, "the run first", "use another name"):
    print("held", flush=True)
    time.sleep(60)
"""


def held(folder: Path) -> Any:
    return sole_writer(lock_inside(folder), folder, "the run second", "use another name")


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that holds tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes as seconds."""
    monkeypatch.setattr(module, "STALE_AFTER_SECONDS", 1.0)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.05)


def left_by(folder: Path, **changes: Any) -> Path:
    """A lock that nobody touches any more."""
    path = lock_inside(folder)
    path.parent.mkdir(exist_ok=True)
    values = {**replace(this_process(), **changes).to_json(), "what": "the run first", "since": "noon"}
    path.write_text(json.dumps(values))
    return path


def test_it_is_there_as_long_as_it_is_held(tmp_path: Path) -> None:
    with held(tmp_path / "run"):
        found = holder_of(lock_inside(tmp_path / "run"))
        assert found is not None and found.writer == this_process()
        with held(tmp_path / "run"), writing(tmp_path / "run" / "step_1"):
            check_held()
        assert holder_of(lock_inside(tmp_path / "run")) == found, "what lies in it is not locked again"
    assert list((tmp_path / "run").iterdir()) == []


def test_a_living_process_keeps_others_out(tmp_path: Path, holder: subprocess.Popen) -> None:
    with (
        pytest.raises(CheckpointError, match=f"process {holder.pid} .*the run first") as refused,
        held(tmp_path),
    ):
        pass
    assert f"kill {holder.pid}" in str(refused.value) and "use another name" in str(refused.value)
    assert [path.name for path in lock_inside(tmp_path).parent.iterdir()] == ["lock"]


def test_a_killed_one_is_followed_at_once(
    tmp_path: Path, holder: subprocess.Popen, caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), held(tmp_path):
        assert time.monotonic() - started < 5
    assert f"taken over from process {holder.pid}" in caplog.text


def test_one_of_another_machine_is_followed_when_it_is_silent(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    left_by(tmp_path, host="elsewhere")
    with caplog.at_level(logging.WARNING), held(tmp_path):
        pass
    assert "waiting up to" in caplog.text and "taken over from" in caplog.text


def test_one_of_another_machine_that_gives_signs_of_life_is_not(tmp_path: Path, quick: None) -> None:
    path, done = left_by(tmp_path, host="elsewhere"), threading.Event()

    def beat() -> None:
        while not done.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(CheckpointError, match=r"on elsewhere .*last seen"), held(tmp_path):
            pass
    finally:
        done.set()
        thread.join()
    assert path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}'])
def test_an_unreadable_lock_is_waited_for_and_taken(content: str, tmp_path: Path, quick: None) -> None:
    left_by(tmp_path).write_text(content)
    with held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_hard_links_it_is_made_exclusively(
    tmp_path: Path, holder: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    with held(tmp_path / "own"):
        assert holder_of(lock_inside(tmp_path / "own")) is not None
    with pytest.raises(CheckpointError, match=f"process {holder.pid}"), held(tmp_path):
        pass


RACE = """
import sys, time
from pathlib import Path
from nemo_pi.checkpoint.lock import lock_inside, sole_writer
from nemo_pi.errors import CheckpointError
folder = Path(sys.argv[1])
print("ready", flush=True)
time.sleep(max(0, float(sys.stdin.readline()) - time.time()))
for _ in range(40):
    try:
        with sole_writer(lock_inside(folder), folder, "a racer", "wait"):
            entered = time.monotonic()
            time.sleep(0.002)
            print(entered, time.monotonic(), flush=True)
    except CheckpointError:
        pass
"""


def test_never_two_at_a_time(tmp_path: Path) -> None:
    """Five processes take and give back one lock as fast as they can, beginning with a dead one's."""
    left_by(tmp_path, start=1)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    start = f"{time.time() + 0.5}\n"
    outputs = [racer.communicate(start, timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 5
    times = sorted(tuple(map(float, line.split())) for output in outputs for line in output.splitlines())
    assert len(times) >= 5
    for (_, left), (entered, _) in pairwise(times):
        assert left <= entered, "two held it at once"


def test_who_lost_it_does_not_give_a_name(tmp_path: Path) -> None:
    """Suspended for minutes, and taken over meanwhile."""
    with held(tmp_path):
        left_by(tmp_path, host="elsewhere")
        with pytest.raises(CheckpointError, match=r"on elsewhere .*has taken over"):
            check_held()
    assert holder_of(lock_inside(tmp_path)) is not None, "the other's lock stays"


def test_a_removed_lock_is_made_again(tmp_path: Path) -> None:
    with held(tmp_path):
        lock_inside(tmp_path).unlink()
        check_held()
        assert holder_of(lock_inside(tmp_path)) is not None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="can be written to"), writing(tmp_path / "file" / "step"):
        pass
    assert lock_beside(tmp_path / "a").parent == tmp_path
