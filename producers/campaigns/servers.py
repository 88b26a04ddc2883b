"""Servers in shards, asked side by side, each with a time limit: one that is dead is told, never waited for.

Clients of these servers are synchronous and belong to one thread at a time. So each server has three lanes,
a thread and a connection each: for what is quick, for what a server first has to tell its neighbours, and
for what reads many users.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from aggregator.clock import SYSTEM_CLOCK
from producers.campaigns.ports import ServerRefusedError, ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aggregator.clock import Clock
    from consumers.tarantool import Address
    from producers.campaigns.ports import Connect, Connection

Lane = Literal["quick", "telling", "slow"]
MOST_WAITING = 64
"""Calls that wait for one server; more are refused at once."""
_NEIGHBOURS = 8.0
_PING = "campaigns.get"
_REST_FIRST, _REST_LONGEST = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one call. ``error`` is empty where ``value`` is the server's answer.

    ``code``: the server's own word for its refusal, or ``unavailable``.
    """

    server: Server
    value: Any = None
    error: str = ""
    code: str = ""

    @property
    def answered(self) -> bool:
        """Whether the server did what it was asked for."""
        return not self.error

    @property
    def unavailable(self) -> bool:
        """Whether it is unknown what the server did, if anything."""
        return self.code == "unavailable"


class _Lane:
    """One thread, and the one connection that it alone touches."""

    def __init__(self, address: Address, connect: Connect, timeout: float, clock: Clock, name: str) -> None:
        self._open = partial(connect, address, timeout)
        self.timeout = timeout
        self._clock = clock
        self._connection: Connection | None = None
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        """Call and wait; ``ServerUnavailableError`` where too many wait already, or it takes too long."""
        if self._waiting >= MOST_WAITING:
            raise ServerUnavailableError(f"{self._waiting} calls wait for it already")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._call, function, arguments)
        future.add_done_callback(self._done)
        # the socket's own limit ends it first, but for the connecting before and the call in front
        limit = self.timeout * 3 + 1
        done, _ = await asyncio.wait([future], timeout=limit)
        if not done:
            raise ServerUnavailableError(f"no answer within {limit:g} s")
        return future.result()

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # asked for: nobody may be waiting any more

    def _call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        kept, begun = self._connection is not None, self._clock.monotonic()
        try:
            return self._once(function, arguments)
        except ServerUnavailableError:
            # a server that was restarted has closed what was kept open; every call may be repeated
            if not kept or self._clock.monotonic() - begun > self.timeout / 2:
                raise
        return self._once(function, arguments)

    def _once(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if self._connection is None:
            self._connection = self._open()
        try:
            return self._connection.call(function, *arguments)
        except ServerRefusedError:
            raise
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection after the call under way, without waiting for it."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)


class Server:
    """One server. ``name`` is ``shard/host:port``: what people see, without passwords."""

    def __init__(
        self,
        shard: str,
        address: Address,
        connect: Connect,
        *,
        timeout: float,
        slow_timeout: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.shard = shard
        self.name = f"{shard}/{address}"
        self._clock = clock
        self._quick = _Lane(address, connect, timeout, clock, f"quick {self.name}")
        # a neighbour that is silent costs a server some seconds
        telling = timeout + _NEIGHBOURS
        self._telling = _Lane(address, connect, telling, clock, f"telling {self.name}")
        self._slow = _Lane(address, connect, slow_timeout, clock, f"slow {self.name}")
        self._rest_until = 0.0
        self._rest = 0.0
        self._fault = ""

    @property
    def resting(self) -> bool:
        """Whether it failed a moment ago."""
        return self._clock.monotonic() < self._rest_until

    async def ask(self, function: str, *arguments: Any, lane: Lane = "quick", patient: bool = True) -> Answer:
        """Call a function; never raises for what is the server's fault.

        Not ``patient``: a server that failed a moment ago is not asked.
        """
        if not patient and self.resting:
            return Answer(self, error=self._fault, code="unavailable")
        try:
            if lane != "quick":
                # one that stands still shows it here, and not only after the long limit
                await self._quick.call(_PING, ("",))
            lanes = {"quick": self._quick, "telling": self._telling, "slow": self._slow}
            value = await lanes[lane].call(function, arguments)
        except ServerUnavailableError as exc:
            self._rest = min(max(self._rest * 2, _REST_FIRST), _REST_LONGEST)
            self._rest_until = self._clock.monotonic() + self._rest
            self._fault = str(exc)
            return Answer(self, error=self._fault, code="unavailable")
        except ServerRefusedError as exc:
            self._rest = self._rest_until = 0.0
            return Answer(self, error=str(exc), code=exc.code or "refused")
        self._rest = self._rest_until = 0.0
        return Answer(self, value)

    def close(self) -> None:
        """End both lanes."""
        for lane in (self._quick, self._telling, self._slow):
            lane.close()


class Shards:
    """All servers, by shard. Each shard holds its own part of the users; its servers hold the same."""

    def __init__(self, servers: Mapping[str, Sequence[Server]]) -> None:
        self.by_name = {name: tuple(each) for name, each in servers.items()}

    @property
    def servers(self) -> tuple[Server, ...]:
        """Every server, shard by shard."""
        return tuple(server for each in self.by_name.values() for server in each)

    async def everywhere(
        self, function: str, *arguments: Any, lane: Lane = "quick", patient: bool = True
    ) -> list[Answer]:
        """Ask all servers at once; an answer for each, in their order."""
        calls = [server.ask(function, *arguments, lane=lane, patient=patient) for server in self.servers]
        return list(await asyncio.gather(*calls))

    async def somewhere(
        self,
        shard: str,
        function: str,
        *arguments: Any,
        lane: Lane = "quick",
        first: Callable[[Server], bool] | None = None,
        elsewhere: Sequence[str] = ("unavailable", "read-only", "not-installed"),
    ) -> list[Answer]:
        """Ask a shard's servers one after the other until one does it; return all that was heard.

        The last answer is the outcome. ``elsewhere``: refusals for which the next server is asked; any other
        ends it. ``first``: which servers are asked before the others; what failed a moment ago comes last.
        """
        heard: list[Answer] = []
        order = sorted(
            self.by_name[shard], key=lambda server: (not (first and first(server)), server.resting)
        )
        for server in order:
            answer = await server.ask(function, *arguments, lane=lane)
            heard.append(answer)
            if answer.answered or answer.code not in elsewhere:
                break
        return heard

    async def each_shard(self, function: str, *arguments: Any, **how: Any) -> dict[str, list[Answer]]:
        """Ask one server of each shard, as :meth:`somewhere` does, all shards at once."""
        names = list(self.by_name)
        heard = await asyncio.gather(*(self.somewhere(name, function, *arguments, **how) for name in names))
        return dict(zip(names, heard, strict=True))

    def close(self) -> None:
        """End all connections."""
        for server in self.servers:
            server.close()
