"""One HTTP/2 connection of a simulator: frames by h2, faults and limits by the gateway's word."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from aggregator.testing.gateways.exchange import Answer, Goaway, Pending, Request
from aggregator.testing.gateways.journal import ANSWERED

if TYPE_CHECKING:
    from aggregator.testing.gateways.exchange import Host

_CONFIG = H2Configuration(client_side=False, header_encoding="utf-8")
#: Seconds between the last answer after a GOAWAY and the end: what was written has to arrive.
_LINGER = 0.1
_NO_LIMIT = 2**31 - 1


class _Announced(Settings):
    """Settings whose limit of streams is told, and not enforced by h2, which would end the connection."""

    max_concurrent_streams = _NO_LIMIT


class _Http2(H2Connection):
    """Looks through all streams for those that are over now and then, not at every new one."""

    _enough = 100

    @property
    def open_inbound_streams(self) -> int:
        """Return how many are open if it has counted, 0 otherwise: nobody here asks for the number."""
        if len(self.streams) < self._enough:
            return 0
        count = super().open_inbound_streams
        self._enough = 100 + 2 * len(self.streams)
        return count


class Http2Connection(asyncio.Protocol):
    """Keeps to what was announced: a stream above the acknowledged limit is refused, and only that one."""

    def __init__(self, host: Host, number: int) -> None:
        self.number = number
        self.trusted = False
        self._host = host
        self._open: dict[int, Request | Pending] = {}
        self._bodies: dict[int, bytes] = {}
        self._limit = _NO_LIMIT
        # one for each SETTINGS frame that was sent and not acknowledged
        self._limits = deque([host.first_streams])
        self._told = host.first_streams
        self._last = _NO_LIMIT  # the last stream that is cared for
        self._ending = False
        self._flushing = False
        self._http2 = _Http2(_CONFIG)
        values = host.settings | {SettingCodes.MAX_CONCURRENT_STREAMS: host.first_streams}
        self._http2.local_settings = _Announced(
            client=False, initial_values=cast("dict[SettingCodes, int]", values)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the settings at once."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._host.opened(self)
        self._http2.initiate_connection()
        self._flush()
        self._idle_since = self._loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Give up what is open."""
        self._lose()
        self._watching.cancel()
        self._host.closed(self)

    def data_received(self, data: bytes) -> None:
        """Take frames; a peer that breaks the protocol gets h2's GOAWAY."""
        try:
            for event in self._http2.receive_data(data):
                self._take(event)
        except ProtocolError:
            self._flush()
            self._end()
            return
        self._pump()
        self._flush()

    def peer_certificate(self) -> bytes | None:
        """Return the client's certificate (DER)."""
        found = self._transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return cast("bytes | None", found)

    def set_streams(self, count: int) -> None:
        """Announce a new limit, unless it is the last one told; it holds once the client acknowledged it."""
        if count == self._told or self._ending:
            return
        self._told = count
        self._limits.append(count)
        self._http2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: count})
        self._flush()

    def wait(self, pending: Pending, delay: float) -> None:
        """Answer after ``delay`` seconds, or now."""
        self._open[pending.request.stream] = pending
        if delay:
            pending.timer = self._loop.call_later(delay, self._finish, pending)
        else:
            self._finish(pending)

    def goaway(self, how: Goaway) -> None:
        """Send GOAWAY; from now on no further stream is cared for."""
        if self._ending:
            return
        last = how.last_stream_id
        if last is None:
            last = max(0, self._http2.highest_inbound_stream_id - 2 * how.behind)
        frame = GoAwayFrame(0, last_stream_id=last, error_code=how.code, additional_data=how.body)
        # by hand: h2 would refuse to answer anything after its own GOAWAY
        self._flush()
        self._transport.write(frame.serialize())
        self._last, self._ending = last, True
        for stream in [stream for stream in self._open if stream > last]:
            self._forget(self._open[stream], "goaway")
        if how.abrupt:
            self._end()
        else:
            self._end_if_done()

    def drop(self) -> None:
        """End it at once, without a word."""
        self._transport.abort()

    def _watch(self) -> None:
        """End a connection that has had no requests for too long."""
        left = self._host.idle - (self._loop.time() - self._idle_since)
        if left <= 0 and not self._open:
            self.goaway(Goaway(body=self._host.goaway_body("IdleTimeout")))
        self._watching = self._loop.call_later(left if left > 0 else self._host.idle, self._watch)

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._begin(event.stream_id, cast("Any", event.headers))
            case DataReceived():
                self._receive(event.stream_id, event)
            case StreamEnded():
                self._complete(event.stream_id)
            case StreamReset():
                self._bodies.pop(event.stream_id, None)
                if entry := self._open.get(event.stream_id):
                    self._forget(entry, "cancelled")
            case SettingsAcknowledged():
                if self._limits:
                    self._limit = self._limits.popleft()

    def _begin(self, stream: int, headers: list[tuple[str, str]]) -> None:
        if stream > self._last:
            return
        self._idle_since = self._loop.time()
        request = Request(headers, stream, self)
        if len(self._open) >= self._limit:
            self._host.note(_unjudged(request), "refused")
            self._reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        self._open[stream] = request

    def _receive(self, stream: int, event: DataReceived) -> None:
        if self._host.window_updates and event.flow_controlled_length:
            self._http2.acknowledge_received_data(event.flow_controlled_length, stream)
        entry = self._open.get(stream)
        if isinstance(entry, Request):
            entry.add(event.data)

    def _complete(self, stream: int) -> None:
        entry = self._open.get(stream)
        if isinstance(entry, Request):
            self._host.take(entry)

    def _finish(self, pending: Pending) -> None:
        """Do what was decided on, now that its time has come."""
        rule = pending.rule
        fault = rule.fault if rule else ""
        if fault == "silence":
            pending.timer = None  # it stays open for as long as the connection lives
            return
        if fault:
            self._fail(pending, fault, rule.code if rule else 0)
            return
        self._answer(pending)

    def _fail(self, pending: Pending, fault: str, code: int) -> None:
        stream = pending.request.stream
        if fault == "drop":
            self._forget(pending, fault)
            self.drop()
        elif fault == "goaway":
            processed = pending.rule is not None and pending.rule.processed
            body = self._host.goaway_body("Shutdown")
            self.goaway(Goaway(body=body, last_stream_id=stream if processed else stream - 2))
            if processed:
                self._answer(pending)
        else:
            self._forget(pending, fault)
            if fault == "cut":
                self._headers(stream, pending, ends=False)
            self._reset(stream, code)

    def _answer(self, pending: Pending) -> None:
        stream, rule = pending.request.stream, pending.rule
        self._forget(pending, ANSWERED)
        # a success has no DATA frame at all, not even an empty one
        body = b"" if rule and rule.empty else pending.answer.body
        self._headers(stream, pending, ends=not body)
        if body:
            self._bodies[stream] = body
            self._pump()
        self._flush_soon()
        self._end_if_done()

    def _headers(self, stream: int, pending: Pending, *, ends: bool) -> None:
        answer = pending.answer
        # one that was never processed has none; it is cut, so an error stands for it
        status = str(answer.status or 500)
        self._http2.send_headers(stream, [(":status", status), *answer.headers], end_stream=ends)

    def _pump(self) -> None:
        """Send of the bodies what the client's windows let through."""
        for stream in list(self._bodies):
            while body := self._bodies.get(stream):
                room = min(
                    self._http2.local_flow_control_window(stream),
                    self._http2.max_outbound_frame_size,
                    len(body),
                )
                if room <= 0:
                    break
                self._http2.send_data(stream, body[:room], end_stream=room == len(body))
                if room == len(body):
                    del self._bodies[stream]
                else:
                    self._bodies[stream] = body[room:]
        self._end_if_done()

    def _reset(self, stream: int, code: int) -> None:
        self._http2.reset_stream(stream, code)
        self._flush_soon()

    def _forget(self, entry: Request | Pending, outcome: str) -> None:
        """Take a stream off those that are open, and write down how it ended."""
        pending = entry if isinstance(entry, Pending) else _unjudged(entry)
        if pending.timer:
            pending.timer.cancel()
        self._open.pop(pending.request.stream, None)
        self._host.note(pending, outcome)

    def _end_if_done(self) -> None:
        if self._ending and not self._open and not self._bodies and not self._transport.is_closing():
            self._flush()
            self._loop.call_later(_LINGER, self._end)

    def _end(self) -> None:
        """Close, as TLS does it; who does not close its own side within a moment is cut off."""
        self._lose()
        self._transport.close()
        self._loop.call_later(_LINGER, self._transport.abort)

    def _lose(self) -> None:
        """Write down what is open: what was decided is delivered, though nobody was told."""
        for entry in list(self._open.values()):
            self._forget(entry, "lost")

    def _flush_soon(self) -> None:
        """Write once for all that is answered in the same turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if (data := self._http2.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)


def _unjudged(request: Request) -> Pending:
    headers = request.headers
    token = headers.get(":path", "").rpartition("/")[2]
    return Pending(request, Answer(0), token, headers.get("apns-id", ""), None)
