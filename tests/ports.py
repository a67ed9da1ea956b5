"""Ports for ranks and daemons that a test starts."""

from __future__ import annotations

import random
import socket

_RANDOM = random.SystemRandom()


def bindable(port: int) -> bool:
    """Whether nobody listens on this port of the loopback."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(number: int) -> list[int]:
    """So many different TCP ports of this host that nobody listens on.

    Below those that Slurm's jobs meet at (20000 + job) and those that Linux hands out to whoever names none,
    gloo's own listeners among them: a test beside this one could be given such a port before rank 0 listens.
    """
    free = (port for port in _RANDOM.sample(range(10_000, 20_000), 1_000) if bindable(port))
    return [next(free) for _ in range(number)]


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
