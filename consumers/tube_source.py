"""Tubes of one or several Tarantool servers as a source."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from aggregator.errors import TarantoolError, TarantoolUnavailableError
from consumers.source import EPOCHS, QueueStatus
from consumers.tarantool import Tarantool, parse_url
from consumers.tubes import Burials, Memory, TubeWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused
    from aggregator.settings import Route
    from consumers.tarantool import Address

#: Seconds that a server has for an answer to whoever looks at its tubes.
ANSWER_SECONDS = 2.0
#: States of tasks that somebody will take without being asked to.
_COMING = ("ready", "delayed")


class TubeInspector:
    """Asks the servers about their tubes."""

    def __init__(
        self,
        addresses: Sequence[Address],
        tubes: Sequence[str],
        connect: Callable[..., Tarantool] = Tarantool,
    ) -> None:
        self._addresses = addresses
        self._tubes = tubes
        self._connect = connect
        self._clients: dict[Address, Tarantool] = {}

    def status(self) -> QueueStatus | None:
        """Return the sum over all servers, or None where one does not answer: it may have tasks."""
        states: dict[str, int] = {}
        for address in self._addresses:
            try:
                client = self._clients.get(address)
                if client is None:
                    client = self._clients[address] = self._connect(address, timeout=ANSWER_SECONDS)
                for tube in self._tubes:
                    (stats,) = client.call("tubes.stats", tube)
                    for state, number in stats["tasks"].items():
                        states[state] = states.get(state, 0) + number
            except (TarantoolError, TarantoolUnavailableError):
                self.close()
                return None
        states.pop("total", None)
        return QueueStatus(sum(states.get(state, 0) for state in _COMING), None, states)

    def close(self) -> None:
        """Drop the connections."""
        for client in self._clients.values():
            with suppress(Exception):
                client.close()
        self._clients.clear()


class TubeSource:
    """The tubes that ``route.queue`` names, at each server of the URL; refused tasks are buried there.

    ``heartbeat``: a worker that shows no life for some of these is kicked.
    """

    watched = True

    def __init__(
        self,
        route: Route,
        *,
        heartbeat: float,
        on_dead_lettered: Callable[[Sequence[Refused]], None],
        connect: Callable[..., Tarantool] = Tarantool,
    ) -> None:
        self.queue = route.queue
        self.heartbeat = heartbeat
        self.dead_letters = Burials(on_dead_lettered)
        self._addresses = parse_url(route.broker.get_secret_value())
        self._tubes = route.tubes
        self._connect = connect
        self._memory = Memory()
        self.inspector = TubeInspector(self._addresses, self._tubes, connect)

    def prepare(self) -> None:
        """Tubes are made at their servers."""

    def worker(
        self, number: int, pipeline: Pipeline, *, prefetch: int, metrics: RouteMetrics, clock: Clock
    ) -> TubeWorker:
        """Return a worker; they take turns at the servers."""
        return TubeWorker(
            self._addresses[(number - 1) % len(self._addresses)],
            self._tubes,
            pipeline,
            prefetch=prefetch,
            name=f"{pipeline.name}-{number}",
            epochs=EPOCHS,
            memory=self._memory,
            burials=self.dead_letters,
            metrics=metrics,
            clock=clock,
            connect=self._connect,
        )
