"""Toxiproxy: stands between a client and a server, and hurts what passes as it is told over HTTP."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import requests

from producers.network import free_port
from tests.servers.base import Remote, Server, Unavailable
from tests.servers.local import LocalHost, cache_folder, new_folder

#: Towards the server, and from it.
UP, DOWN = "upstream", "downstream"


class Toxiproxy(Server):
    """A server; ``url`` is that of its HTTP interface. :meth:`leg` makes the proxies."""

    def ready(self) -> bool:
        """Ask for its version."""
        return requests.get(f"{self.url}/version", timeout=2).ok

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request with a JSON body; return the decoded answer, raise ``HTTPError`` from 400 on."""
        answer = requests.request(method, f"{self.url}{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def leg(self, name: str, url: str) -> Leg:
        """Return a new proxy to the server of ``url``, which has to name its port."""
        parts = urlsplit(url)
        port = free_port()
        proxy = {"listen": f"127.0.0.1:{port}", "upstream": f"{parts.hostname}:{parts.port}"}
        self.call("POST", "/proxies", {"name": name, "enabled": True, **proxy})
        return Leg(self, name, url.replace(f":{parts.port}", f":{port}", 1))


class Leg:
    """One proxy: ``url`` is the server's, by way of it."""

    def __init__(self, toxiproxy: Toxiproxy, name: str, url: str) -> None:
        self._toxiproxy = toxiproxy
        self._path = f"/proxies/{name}"
        self.url = url

    def add(self, kind: str, stream: str = DOWN, *, name: str = "", **attributes: int) -> str:
        """Add a toxic (``latency``, ``bandwidth``, ``slicer``, ``timeout``, …); return its name."""
        name = name or f"{kind}-{stream}"
        self._toxiproxy.call(
            "POST",
            f"{self._path}/toxics",
            {"name": name, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes},
        )
        return name

    def remove(self, name: str) -> None:
        """Remove a toxic; no error if there is none."""
        answer = requests.delete(f"{self._toxiproxy.url}{self._path}/toxics/{name}", timeout=10)
        if answer.status_code != requests.codes.not_found:
            answer.raise_for_status()

    def shut(self) -> None:
        """Close every connection, and refuse new ones."""
        self._toxiproxy.call("POST", self._path, {"enabled": False})

    def open(self) -> None:
        """Take connections again, on the same port."""
        self._toxiproxy.call("POST", self._path, {"enabled": True})

    def close(self) -> None:
        """Remove it."""
        self._toxiproxy.call("DELETE", self._path)


def toxiproxy() -> Toxiproxy:
    """Return a server, not started."""
    if url := os.environ.get("TEST_TOXIPROXY_URL"):
        return Toxiproxy("toxiproxy", url.rstrip("/"), Remote())
    binary = cache_folder() / "toxiproxy"
    if not binary.exists():
        raise Unavailable("Toxiproxy is not built: `make servers` does it, where there is Go")
    port = free_port()
    command = [str(binary), "-host", "127.0.0.1", "-port", str(port)]
    host = LocalHost("toxiproxy", new_folder("toxiproxy"), command, {"LOG_LEVEL": "error"})
    return Toxiproxy("toxiproxy", f"http://127.0.0.1:{port}", host)
