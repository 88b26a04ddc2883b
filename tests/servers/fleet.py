"""One of each server for a whole run: started when first wanted, side by side, ended together."""

from __future__ import annotations

import atexit
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tests.servers.elastic import elasticsearch
from tests.servers.open_search import opensearch
from tests.servers.rabbitmq import rabbitmq, rabbitmq4
from tests.servers.rabbitmq_cluster import cluster
from tests.servers.redis import redis
from tests.servers.tarantool import tarantool
from tests.servers.toxiproxy import toxiproxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Startable(Protocol):
    """A server, or several that are one."""

    url: str

    def start(self) -> None:
        """Start it, and wait until it is ready."""

    def close(self) -> None:
        """End it for good."""


MAKERS: dict[str, Callable[[], Startable]] = {
    "rabbitmq": rabbitmq,
    "rabbitmq4": rabbitmq4,
    "rabbitmq_cluster": partial(cluster, "3.10"),
    "rabbitmq4_cluster": partial(cluster, "4.0"),
    "elasticsearch": elasticsearch,
    "opensearch": opensearch,
    "redis": redis,
    "tarantool": tarantool,
    "toxiproxy": toxiproxy,
}
NAMES = tuple(MAKERS)


class Fleet:
    """Starts each server once. ``full_speed``: for benchmarks, at the price of a slower start."""

    def __init__(self, *, full_speed: bool = False) -> None:
        self._makers = dict(MAKERS)
        if full_speed:
            self._makers["elasticsearch"] = partial(elasticsearch, heap="1g", quick_start=False)
        self._pool = ThreadPoolExecutor(len(MAKERS), thread_name_prefix="servers")
        self._lock = threading.Lock()
        self._started: dict[str, Future[Startable]] = {}
        self._made: list[Startable] = []
        atexit.register(self.close)

    def prefetch(self, names: Iterable[str]) -> None:
        """Begin to start these, in the background."""
        with self._lock:
            for name in names:
                if name not in self._started:
                    self._started[name] = self._pool.submit(self._start, name)

    def get(self, name: str) -> Startable:
        """Return a running server; ``Unavailable`` if there is none to be had, each time alike."""
        self.prefetch([name])
        return self._started[name].result()

    def close(self) -> None:
        """End all that was started; may be called twice."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            made, self._made = self._made, []
        for server in made:
            server.close()
        for future in self._started.values():
            with suppress(BaseException):
                future.result(timeout=0)
        atexit.unregister(self.close)

    def _start(self, name: str) -> Startable:
        server = self._makers[name]()
        with self._lock:
            self._made.append(server)
        server.start()
        return server
