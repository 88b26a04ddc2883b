"""One HTTP/1.1 connection of a simulator, by h11: many clients of FCM and all of OAuth's speak it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import h11

from aggregator.testing.gateways.exchange import Answer, Pending, Request
from aggregator.testing.gateways.journal import ANSWERED

if TYPE_CHECKING:
    from aggregator.testing.gateways.exchange import Goaway, Host


class Http1Connection(asyncio.Protocol):
    """Takes one request after the other; what HTTP/2 alone can do, ends the connection here."""

    def __init__(self, host: Host, number: int) -> None:
        self.number = number
        self.trusted = True
        self._host = host
        self._http1 = h11.Connection(h11.SERVER)
        self._request: Request | None = None
        self._pending: Pending | None = None
        self._count = 0
        self._ending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """Give up what is open; what was decided is delivered, though nobody was told."""
        self._forget("lost")
        self._host.closed(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes; who breaks the protocol is shown the door."""
        self._http1.receive_data(data)
        self._go_on()

    def peer_certificate(self) -> bytes | None:
        """Nobody is asked for one."""
        return None

    def set_streams(self, count: int) -> None:
        """There are none."""

    def wait(self, pending: Pending, delay: float) -> None:
        """Answer after ``delay`` seconds, or now."""
        self._pending, self._request = pending, None
        if delay:
            pending.timer = self._loop.call_later(delay, self._finish, pending)
        else:
            self._finish(pending)

    def goaway(self, how: Goaway) -> None:
        """Answer what is open, with ``connection: close``, then end; ``abrupt``: end now."""
        self._ending = True
        if how.abrupt or not (self._pending or self._request):
            self._transport.close()

    def drop(self) -> None:
        """End it at once, without a word."""
        self._transport.abort()

    def _go_on(self) -> None:
        try:
            while not self._pending:
                event = self._http1.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._take(event)
        except h11.RemoteProtocolError:
            self._transport.close()

    def _take(self, event: object) -> None:
        match event:
            case h11.Request():
                self._count += 1
                pairs = [(name.decode(), value.decode(errors="replace")) for name, value in event.headers]
                start = [(":method", event.method.decode()), (":path", event.target.decode())]
                self._request = Request([*start, *pairs], self._count, self)
            case h11.Data() if self._request:
                self._request.add(bytes(event.data))
            case h11.EndOfMessage() if self._request:
                self._host.take(self._request)
            case h11.ConnectionClosed():
                self._transport.close()
                raise h11.RemoteProtocolError("closed")

    def _finish(self, pending: Pending) -> None:
        rule = pending.rule
        fault = rule.fault if rule else ""
        if fault == "silence":
            pending.timer = None
            return
        if fault == "goaway" and rule and rule.processed:
            self._ending = True
        elif fault:
            self._forget(fault)
            if fault == "cut":
                self._send(pending.answer, cut=True)
            self.drop()
            return
        self._forget(ANSWERED)
        self._send(pending.answer, empty=bool(rule and rule.empty))
        if self._http1.our_state is h11.MUST_CLOSE:
            self._transport.close()
            return
        self._http1.start_next_cycle()
        # what came behind it in the same bytes
        self._loop.call_soon(self._go_on)

    def _send(self, answer: Answer, *, cut: bool = False, empty: bool = False) -> None:
        body = b"" if empty else answer.body
        length = len(body) + (1 if cut else 0)
        headers = [*answer.headers, ("content-length", str(length))]
        if self._ending:
            headers.append(("connection", "close"))
        told = self._http1.send(h11.Response(status_code=answer.status or 500, headers=headers))
        if not cut:
            told = (told or b"") + (self._http1.send(h11.Data(data=body)) or b"")
            told += self._http1.send(h11.EndOfMessage()) or b""
        self._transport.write(told or b"")

    def _forget(self, outcome: str) -> None:
        pending, self._pending = self._pending, None
        if pending is None and self._request:
            pending = Pending(self._request, Answer(0), "", "", None)
        self._request = None
        if pending:
            if pending.timer:
                pending.timer.cancel()
            self._host.note(pending, outcome)
