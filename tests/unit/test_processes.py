"""Processes that are told apart from those that had their number before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from nemo_pi.processes import Writer, start_of, this_process


def test_this_process_lives_and_its_token_comes_back() -> None:
    me = this_process()
    assert me.pid == os.getpid() and me.lives() is True
    assert Writer.from_token(me.token) == me
    assert Writer.from_json(me.to_json()) == me
    assert "." not in me.token and "/" not in me.token, "it ends a hidden folder's name"


def test_a_number_that_was_given_again_is_another_process() -> None:
    me = this_process()
    assert replace(me, start=me.start - 1).lives() is False


@pytest.mark.parametrize("change", [{"host": "another"}, {"namespace": 1}])
def test_of_other_machines_and_containers_nothing_is_known(change: dict) -> None:
    assert replace(this_process(), **change).lives() is None


def test_a_zombie_no_longer_runs() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 30
    while start_of(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert start_of(child.pid) is None, "it has ended, though nobody has asked for its status"
    child.wait()


@pytest.mark.parametrize("token", ["", "partial", "host-1-2", "a b-1-2-3", "host-1-2-x"])
def test_other_names_are_no_tokens(token: str) -> None:
    assert Writer.from_token(token) is None


@pytest.mark.parametrize("values", [None, 3, {}, {"host": "a", "namespace": 1, "pid": "2", "start": 3}])
def test_other_values_are_no_writers(values: object) -> None:
    assert Writer.from_json(values) is None
