"""The collector rests while a command imports, and works again once it begins."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, weakref
from nemo_pi import collector

class Ring:
    def __init__(self):
        self.me = self

def ring():
    return weakref.ref(Ring())

{body}
"""


def runs(body: str) -> None:
    """In a process of its own: frozen objects stay frozen."""
    subprocess.run([sys.executable, "-c", PROGRAM.format(body=body)], check=True)


def test_nothing_is_collected_between_pause_and_resume() -> None:
    runs(
        "gc.set_threshold(1)\ncollector.pause()\nbefore = ring()\nmany = [[] for _ in range(1000)]\n"
        "assert before() is not None and not gc.isenabled()\n"
        "collector.resume()\nafter = ring()\nmany = [[] for _ in range(1000)]\n"
        "assert after() is None and gc.isenabled() and gc.get_freeze_count() > 0"
    )


def test_without_a_pause_nothing_is_frozen() -> None:
    runs("collector.resume()\nassert gc.isenabled() and gc.get_freeze_count() == 0")


def test_a_collector_that_others_switched_off_stays_off() -> None:
    runs("gc.disable()\ncollector.pause()\ncollector.resume()\nassert not gc.isenabled()")
    runs("collector.pause()\ncollector.pause()\ncollector.resume()\nassert gc.isenabled()")
