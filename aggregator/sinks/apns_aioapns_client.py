"""The second engine: aioapns on a thread and an event loop of its own, for who cannot have libcurl.

Of aioapns 4.0 the connection and its pool are used; what would lose pushes, send them several times
or hang is replaced in :class:`MendedProtocol` and :class:`MendedPool`.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from aioapns.connection import APNsBaseConnectionPool, APNsProductionClientProtocol
from h2 import events
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from aggregator.errors import SinkBlockedError, SinkUnavailableError
from aggregator.sinks.apns_aioapns_streams import Exchange, LostError, Slots, UntouchedError
from aggregator.sinks.base import Fate, Verdict
from aggregator.sinks.push_batch import Question

if TYPE_CHECKING:
    from aggregator.sinks.push_batch import Batch, Reply, Request
    from aggregator.sinks.push_engine import Endpoint

_LONGEST_BODY = 64 * 1024
#: So many connections may break under one batch; then it is the gateway that is away.
_BREAKS = 3


class PatientConnection(H2Connection):
    """Goes on after GOAWAY: what stands below its last stream is still answered."""

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[events.Event]]:
        event = events.ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]


class MendedProtocol(APNsProductionClientProtocol):
    """One connection. Each stream ends exactly once: with a reply, as untouched, or as lost."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.conn = PatientConnection()
        # one stream until the gateway tells its limit: no burst can be too large
        self.slots = Slots(1)
        self.streams: dict[int, Exchange] = {}
        self.draining = False
        self._window = asyncio.Event()

    async def push(self, request: Request, timeout: float) -> Reply:  # noqa: ASYNC109 - a deadline of ours
        """Send one push. Raises ``UntouchedError`` or ``LostError``."""
        await self.slots.acquire()
        stream = self._next_stream()
        exchange = self.streams[stream] = Exchange()
        try:
            async with asyncio.timeout(timeout):
                self._send_headers(stream, request)
                await self._send_body(stream, request.body)
                return await exchange.ended
        except TimeoutError:
            self._cancel(stream)
            raise LostError("timeout", f"no answer within {timeout:g} s") from None
        finally:
            if self.streams.pop(stream, None) is not None:
                self.slots.release()
            if self.draining and not self.streams:
                self.close()

    def data_received(self, data: bytes) -> None:
        """Take what the gateway says; every event counts, and what was read is acknowledged."""
        try:
            for event in self.conn.receive_data(data):
                self._take(event)
        except ProtocolError as exc:
            self.draining = True
            self._end_all(LostError("connection-lost", type(exc).__name__))
            self.close()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Have everything under way end; also what nobody waits for any more."""
        self.draining = True
        if self.on_connection_lost:
            self.on_connection_lost(self)
        self._end_all(LostError("connection-lost", f"the gateway closed it: {exc or 'end of stream'}"))
        self.slots.close()
        self._window.set()

    def refresh_inactivity_timer(self) -> None:
        """Keep the connection: to come anew after ten idle seconds looks like an attack."""

    def flush(self) -> None:
        """Write what is ready, unless the connection is gone."""
        if self.transport is not None and not self._gone:
            self.transport.write(self.conn.data_to_send())

    @property
    def is_busy(self) -> bool:
        """Whether a push would have to wait, or must not go this way."""
        return self.draining or self.slots.full

    @property
    def _gone(self) -> bool:
        """Whether nothing can be written any more, though that was not told yet.

        asyncio's TLS knows it of the socket below alone, and logs a line for each write in between.
        """
        transport: Any = self.transport
        below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
        return transport is None or transport.is_closing() or below is None or below.is_closing()

    def _next_stream(self) -> int:
        """Return the number of a new stream, or give the slot back."""
        self.draining = self.draining or self._gone
        if not self.draining:
            try:
                return self.conn.get_next_available_stream_id()
            except ProtocolError:  # two thousand million pushes went this way
                self.draining = True
        self.slots.release()
        raise UntouchedError

    def _take(self, event: Any) -> None:
        stream = getattr(event, "stream_id", None)
        exchange = self.streams.get(stream) if stream else None
        match event:
            case events.ResponseReceived() if exchange:
                exchange.head(event.headers)
            case events.DataReceived():
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if exchange and len(exchange.body) < _LONGEST_BODY:
                    exchange.body += event.data
            case events.StreamEnded() if exchange:
                exchange.end()
            case events.StreamReset() if exchange:
                refused = event.error_code == ErrorCodes.REFUSED_STREAM
                exchange.fail(
                    UntouchedError() if refused else LostError("stream-lost", "the gateway reset it")
                )
            case events.ConnectionTerminated():
                self._go_away(event.last_stream_id)
            case events.RemoteSettingsChanged():
                self._limit()
                self._window.set()
            case events.WindowUpdated():
                self._window.set()

    def _limit(self) -> None:
        known = SettingCodes.MAX_CONCURRENT_STREAMS in self.conn.remote_settings
        self.slots.limit(self.conn.remote_settings.max_concurrent_streams if known else 100)

    def _go_away(self, last_stream: int | None) -> None:
        """Send nothing more; what stands above the last stream was not looked at."""
        self.draining = True
        for stream, exchange in self.streams.items():
            if stream > (last_stream or 0):
                exchange.fail(UntouchedError())
        self.slots.close()
        if not self.streams:
            self.close()

    def _send_headers(self, stream: int, request: Request) -> None:
        host = f"{self.APNS_SERVER}:{self.APNS_PORT}" if self.APNS_PORT != 443 else self.APNS_SERVER  # noqa: PLR2004
        headers: list[tuple[bytes | str, bytes | str]] = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", host),
            (":path", request.path),
        ]
        for line in request.headers:
            name, _, value = line.partition(b":")
            if value:
                headers.append((name, value.strip()))
        try:
            self.conn.send_headers(stream, headers)
        except ProtocolError:  # no stream ids are left, or it is closing
            self.draining = True
            raise UntouchedError from None
        self.flush()

    async def _send_body(self, stream: int, body: bytes) -> None:
        sent = 0
        while True:
            try:
                room = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
                if room >= 1 or sent == len(body):
                    part = body[sent : sent + room]
                    sent += len(part)
                    self.conn.send_data(stream, part, end_stream=sent == len(body))
                    self.flush()
            except ProtocolError:
                return  # it was reset or ended meanwhile: the exchange knows
            if sent == len(body):
                return
            self._window.clear()
            await self._window.wait()

    def _cancel(self, stream: int) -> None:
        try:
            self.conn.reset_stream(stream, ErrorCodes.CANCEL)
        except ProtocolError:
            return
        self.flush()

    def _end_all(self, error: Exception) -> None:
        for exchange in self.streams.values():
            exchange.fail(error)


class MendedPool(APNsBaseConnectionPool):
    """Connections to one gateway; opens none beside one that only waits for its limit."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(max_connections=endpoint.connections, max_connection_attempts=1)
        self._endpoint = endpoint
        names = {"APNS_SERVER": endpoint.host, "APNS_PORT": endpoint.port}
        self.protocol_class = type("Protocol", (MendedProtocol,), names)
        self.members: list[MendedProtocol] = []
        try:
            context = ssl.create_default_context(cafile=str(endpoint.ca) if endpoint.ca else None)
            if endpoint.certificate:
                context.load_cert_chain(endpoint.certificate)
        except (OSError, ssl.SSLError) as exc:  # they were right at the start
            raise SinkBlockedError(f"ca or certificate cannot be read any more: {exc.strerror}") from None
        context.set_alpn_protocols(["h2"])
        self.ssl_context = context

    async def acquire(self) -> MendedProtocol:
        """Return the least busy connection, or a new one. Raises a ``SinkError``."""
        async with self._lock:
            alive = [one for one in self.members if not one.draining]
            free = min(alive, key=lambda one: one.slots.used, default=None)
            if free is None or (free.is_busy and len(alive) < self.max_connections):
                free = await self.create_connection()
                self.members.append(free)
            return free

    async def create_connection(self) -> MendedProtocol:
        """Connect. Raises ``SinkUnavailableError`` or ``SinkBlockedError``."""
        where = self._endpoint.url
        forget: Any = self.discard_connection  # aioapns has it typed as what never returns
        protocol: Any
        make = partial(self.protocol_class, "", self.loop, forget, None)
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                _, protocol = await self.loop.create_connection(
                    make, self._endpoint.host, self._endpoint.port, ssl=self.ssl_context
                )
        except ssl.SSLCertVerificationError as exc:
            raise SinkBlockedError(f"TLS with {where}: {exc.verify_message}") from None
        except (OSError, TimeoutError) as exc:  # ssl.SSLError is an OSError
            raise SinkUnavailableError(f"no connection to {where}: {type(exc).__name__}") from None
        found: MendedProtocol = protocol
        return found

    def discard_connection(self, connection: Any) -> None:
        """Forget a connection that has ended."""
        if connection in self.members:
            self.members.remove(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self.members):
            connection.close()


class AioapnsEngine:
    """A loop in a thread, with one pool for all writes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._pool: MendedPool | None = None

    def ask(self, request: Request) -> Reply:
        """Send one request; see :class:`aggregator.sinks.push_engine.Engine`."""
        question = Question(request)
        self.run(question)
        return question.result(self._endpoint.url)

    def run(self, batch: Batch) -> None:
        """Send a batch."""
        asyncio.run_coroutine_threadsafe(self._drive(batch), self._started()).result()

    def close(self) -> None:
        """End the connections, the loop and the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._let_go(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = Thread(target=self._loop.run_forever, name="aioapns", daemon=True)
                self._thread.start()
            return self._loop

    async def _let_go(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        connections = list(pool.members)
        pool.close()
        for _ in range(100):  # TLS says goodbye, for a second at most
            if not pool.members:
                break
            await asyncio.sleep(0.01)
        for connection in connections:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)

    async def _drive(self, batch: Batch) -> None:
        pool = self._pool
        if pool is None:
            pool = self._pool = MendedPool(self._endpoint)
        loop = asyncio.get_running_loop()
        loop_deadline = loop.time() + 2 * self._endpoint.timeout
        broken: set[MendedProtocol] = set()
        workers = [
            asyncio.create_task(self._work(batch, pool, broken)) for _ in range(self._endpoint.streams)
        ]
        answers = batch.answers
        while True:
            done, waiting = await asyncio.wait(workers, timeout=self._endpoint.timeout)
            for task in done:
                task.result()
            if not waiting:
                return
            if batch.answers == answers:
                self._stop(batch, SinkUnavailableError(f"no answer from {self._endpoint.url}"))
                for connection in list(pool.members):
                    connection.close()
            elif loop.time() >= loop_deadline:
                batch.stop(Verdict(Fate.RETRY, "unsent", "the gateway takes them too slowly"))
            answers = batch.answers

    async def _work(self, batch: Batch, pool: MendedPool, broken: set[MendedProtocol]) -> None:
        connection: MendedProtocol | None = None
        while True:
            taken = batch.take()
            if taken is None:
                pause = batch.wait()
                if pause is None:
                    return
                await asyncio.sleep(pause)
                continue
            number, request = taken
            try:
                connection = await pool.acquire()
                batch.answered(number, await connection.push(request, self._endpoint.timeout))
            except UntouchedError:
                batch.untouched(number, "the gateway refused the stream")
            except LostError as exc:
                batch.uncertain(number, exc.reason, exc.problem)
                if connection and exc.reason == "connection-lost":
                    broken.add(connection)
                if len(broken) >= _BREAKS:
                    where = self._endpoint.url
                    self._stop(batch, SinkUnavailableError(f"{where} breaks connections: {exc.problem}"))
            except (SinkUnavailableError, SinkBlockedError) as exc:
                batch.uncertain(number, "connection-lost", str(exc))
                self._stop(batch, exc)

    def _stop(self, batch: Batch, error: SinkUnavailableError | SinkBlockedError) -> None:
        blocked = isinstance(error, SinkBlockedError)
        fate, reason = (Fate.BLOCKED, "tls") if blocked else (Fate.RETRY, "connection-lost")
        batch.stop(Verdict(fate, reason, str(error)), error)
