"""Redis, without persistence."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from producers.network import free_port
from tests.servers.base import Remote, Server, Unavailable, program
from tests.servers.local import LocalHost, new_folder


class Redis(Server):
    """A server; ``url`` is ``redis://127.0.0.1:PORT/0``."""

    def ready(self) -> bool:
        """Send PING."""
        at = urlsplit(self.url)
        with socket.create_connection((at.hostname or "127.0.0.1", at.port or 6379), timeout=2) as link:
            link.sendall(b"PING\r\n")
            # a password is wanted: it answers, and whoever gave the URL gave the password in it
            return link.recv(64).startswith((b"+PONG", b"-NOAUTH"))


def redis() -> Redis:
    """Return a server, not started."""
    if url := os.environ.get("TEST_REDIS_URL"):
        return Redis("redis", url, Remote())
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    try:
        binary = program("redis-server")
    except Unavailable as why:
        from tests.servers.container import ContainerHost

        return Redis("redis", url, ContainerHost("redis:7", {6379: port}, {}, instead=str(why)))
    folder = new_folder("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    return Redis("redis", url, LocalHost("redis", folder, [binary, *options], {}))
