"""Ports for servers that a test or a demonstration starts."""

from __future__ import annotations

import random
import socket

#: Below the range from which systems choose ports of outgoing connections: a server that restarts must
#: find its port free again.
FIRST, LAST = 12_000, 31_999
_TRIALS = 1_000


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on. Raises ``OSError`` if none is found."""
    for _ in range(_TRIALS):
        port = random.randint(FIRST, LAST)  # noqa: S311 - no secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {FIRST} and {LAST}")
