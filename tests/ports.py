"""Ports for ranks that a test starts."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_RANDOM = random.SystemRandom()


def free_port() -> int:
    """A TCP port of this host that nobody listens on.

    Below those that Linux hands out to whoever names none, gloo's own listeners among them: a test beside
    this one could be given such a port before rank 0 listens.
    """
    while True:
        port = _RANDOM.randrange(20_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
