"""What both gateways have in common: a thread with its loop, TLS, the script, the journal."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import TimeoutError as LateError
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self
from weakref import finalize

from aggregator.clock import SYSTEM_CLOCK
from aggregator.testing.gateways.certificates import Authority
from aggregator.testing.gateways.exchange import Answer, Goaway, Pending
from aggregator.testing.gateways.http2 import Http2Connection
from aggregator.testing.gateways.journal import Entry, Journal
from aggregator.testing.gateways.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.clock import Clock
    from aggregator.testing.gateways.exchange import Connection, Request
    from aggregator.testing.gateways.script import Latency, Rule

#: Seconds within which the gateway's thread has to answer.
_PATIENCE = 10
_DELIVERED = 200


class Entrance(asyncio.Protocol):
    """Takes a connection whose handshake is done, and hands it to the protocol that was agreed on."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Choose by ALPN; a client that speaks none of the gateway's protocols is shown the door."""
        agreed = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol = self._gateway.protocol(agreed)
        if protocol is None:
            transport.close()
            return
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the types
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Gateway:
    """One simulated gateway on 127.0.0.1, for use in a ``with`` block or between start() and stop().

    ``port`` 0 takes a free one. ``folder``: where keys and certificates go, a temporary one if not given.
    ``seed`` and ``latency`` (seconds, or two to draw from): see ``script``. ``streams``: the limit of
    streams of a connection. ``journal``: a file that gets each entry as a line; ``journal_limit``: how
    many entries stay in memory. ``clock``: what tokens' ages are measured by.
    """

    #: Reasons that a script may ask for, with their status.
    reasons: dict[str, int]
    alpn: tuple[str, ...] = ("h2",)
    #: Seconds after which a connection without requests is ended.
    idle: float = 3600
    settings: dict[int, int]

    def __init__(
        self,
        *,
        port: int = 0,
        folder: str | Path | None = None,
        seed: int = 0,
        latency: Latency = 0.0,
        streams: int = 1000,
        journal: str | Path | None = None,
        journal_limit: int = 100_000,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 0 <= port <= 65_535:  # noqa: PLR2004 - TCP's
            raise ValueError(f"port is {port}; a number from 0 to 65535 is needed")
        if journal_limit < 1:
            raise ValueError(f"journal_limit is {journal_limit}; at least 1 is needed")
        self.clock = clock
        self._port = port
        self.script = Script(self, self.reasons, seed=seed, latency=latency)
        self._streams = _checked(streams)
        self.folder = Path(folder or mkdtemp(prefix="gateway-"))
        # whoever does not start it need not stop it
        self._cleanup = None if folder else finalize(self, rmtree, self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(self.folder)
        self.ca = self.authority.ca
        self.journal = Journal(journal_limit, Path(journal) if journal else None)
        self.faults: list[str] = []
        self._connections: set[Connection] = set()
        self._numbers = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    def start(self) -> Self:
        """Listen. Raises ``OSError`` if the port is taken."""
        ready = Event()
        self._thread = Thread(target=self._run, args=(ready,), name=type(self).__name__, daemon=True)
        self._thread.start()
        ready.wait(_PATIENCE)
        if self._failure:
            self._close()
            raise self._failure
        return self

    def stop(self) -> None:
        """End all connections and the thread; what is in the journal stays."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_PATIENCE)
        self._close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if self.faults and kind is None:
            raise RuntimeError("the simulator itself failed:\n" + "\n".join(self.faults))

    @property
    def port(self) -> int:
        """Where it listens, once it has started."""
        return self._port

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"https://127.0.0.1:{self._port}"

    def ready(self) -> dict[str, Any]:
        """Return what a client has to know, as JSON shows it."""
        return {"url": self.url, "ca": str(self.ca)}

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    @property
    def connections_made(self) -> int:
        """How many were made since the start."""
        return self._numbers

    # what a test asks for, from any thread

    def goaway(
        self,
        reason: str = "Shutdown",
        *,
        last_stream_id: int | None = None,
        behind: int = 0,
        code: int = 0,
        abrupt: bool = False,
    ) -> None:
        """Send GOAWAY on all connections, with ``reason`` in its body.

        Streams above ``last_stream_id`` (by default the highest seen, or the one ``behind`` streams
        before it) are not processed; the others are answered, then the connection ends. ``abrupt``: it
        ends at once, and what was not answered is uncertain. ``code``: the HTTP/2 error.
        """
        body = self.goaway_body(reason)
        how = Goaway(body=body, last_stream_id=last_stream_id, behind=behind, code=code, abrupt=abrupt)

        def act() -> None:
            for connection in list(self._connections):
                connection.goaway(how)

        self._call(act)

    def drop(self) -> None:
        """End all connections without a word; return when they are gone."""
        dropped: set[Connection] = set()

        def act() -> None:
            dropped.update(self._connections)
            for connection in dropped:
                connection.drop()

        self._call(act, lambda: not dropped & self._connections)

    def set_streams(self, count: int) -> None:
        """Tell all connections, and those to come, a new limit of streams."""
        self._streams = _checked(count)

        def act() -> None:
            for connection in list(self._connections):
                if connection.trusted:
                    connection.set_streams(self._streams)

        self._call(act)

    # what its connections ask, in the gateway's own thread

    @property
    def first_streams(self) -> int:
        """The limit that a new connection is told."""
        return self._streams

    @property
    def window_updates(self) -> bool:
        """Whether flow control windows are given back."""
        return self.script.window_updates

    def protocol(self, agreed: str | None) -> asyncio.Protocol | None:
        """Return what speaks the protocol that was agreed on; None ends the connection."""
        if agreed != "h2":
            return None
        return Http2Connection(self, self.next_number())

    def next_number(self) -> int:
        """Return a number for a new connection."""
        self._numbers += 1
        return self._numbers

    def opened(self, connection: Connection) -> None:
        """Note a connection."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def take(self, request: Request) -> None:
        """Decide on a complete request."""
        pending = self.judge(request)
        if pending.counts:
            rule = self.script.decide(pending.token)
            if rule and rule.reason and pending.answer.status == _DELIVERED:
                pending.answer = self.scripted(rule, pending)
            if rule and rule.fault and not rule.processed:
                pending.answer = Answer(0)
            pending.rule = rule
        request.connection.wait(pending, self.script.delay(pending.rule) if pending.counts else 0)

    def note(self, pending: Pending, outcome: str) -> None:
        """Write down what became of a request."""
        if not pending.counts:
            return
        request, answer = pending.request, pending.answer
        self.journal.add(
            Entry(
                number=self.journal.total + 1,
                time=self.clock.time(),
                connection=request.connection.number,
                stream=request.stream,
                token=pending.token,
                apns_id=pending.apns_id,
                headers=request.headers,
                payload=bytes(request.body),
                # what stands above a GOAWAY's last stream was never processed
                status=0 if outcome == "goaway" else answer.status,
                reason="" if outcome == "goaway" else answer.reason,
                outcome=outcome,
            )
        )

    def judge(self, request: Request) -> Pending:
        """Return the answer by the gateway's own rules."""
        raise NotImplementedError

    def scripted(self, rule: Rule, pending: Pending) -> Answer:
        """Return the answer that a rule asks for."""
        raise NotImplementedError

    def goaway_body(self, reason: str) -> bytes:
        """Return what stands in a GOAWAY frame."""
        raise NotImplementedError

    def context(self) -> ssl.SSLContext:
        """Return the settings of TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.authority.server())
        context.set_alpn_protocols(list(self.alpn))
        return context

    def _call(self, act: Callable[[], None], done: Callable[[], bool] = lambda: True) -> None:
        """Do it in the gateway's thread, and wait until it is done."""
        if self._loop is None:
            return

        async def run() -> None:
            act()
            while not done():  # noqa: ASYNC110 - some turns of the loop, no waiting
                await asyncio.sleep(0)

        try:
            asyncio.run_coroutine_threadsafe(run(), self._loop).result(_PATIENCE)
        except LateError:
            raise RuntimeError("the simulator's thread does not answer") from None

    def _run(self, ready: Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as exc:  # noqa: BLE001 - told by start()
            self._failure = exc
            self.faults.append(repr(exc))
        finally:
            self._loop = None
            ready.set()

    async def _serve(self, ready: Event) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.faults.append(_told(context)))
        self._stopping = asyncio.Event()
        server = await loop.create_server(
            lambda: Entrance(self), "127.0.0.1", self._port, ssl=self.context(), backlog=512
        )
        self._port = server.sockets[0].getsockname()[1]
        self._loop = loop
        ready.set()
        await self._stopping.wait()
        server.close()
        while self._connections:
            for connection in list(self._connections):
                connection.drop()
            await asyncio.sleep(0.01)

    def _close(self) -> None:
        self.journal.close()
        if self._cleanup:
            self._cleanup()


def _checked(streams: Any) -> int:
    if isinstance(streams, bool) or not isinstance(streams, int) or not 0 <= streams < 2**31:
        raise ValueError(f"streams is {streams!r}; a whole number from 0 to 2147483647 is needed")
    return streams


def _told(context: dict[str, Any]) -> str:
    return f"{context['message']}: {context.get('exception')!r}"
