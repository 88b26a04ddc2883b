"""HTTP/2 by libcurl: many pushes at once on few connections, for some 0.04 ms of CPU each.

libcurl would send what was under way on a connection that broke again by itself, any number of
pushes up to five times. So that it cannot, bodies are given by a function that does not rewind: what
the gateway refused by GOAWAY or REFUSED_STREAM is told apart by the error's words and sent again,
everything else is uncertain.
"""

from __future__ import annotations

import select
import ssl
from contextlib import suppress
from io import BytesIO
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any

import pycurl

from aggregator.clock import monotonic
from aggregator.errors import SinkBlockedError, SinkError, SinkUnavailableError
from aggregator.sinks.base import Fate, Verdict
from aggregator.sinks.push_batch import Question, Reply

if TYPE_CHECKING:
    from aggregator.sinks.push_batch import Batch, Request
    from aggregator.sinks.push_engine import Endpoint

#: What a gateway says fits into some hundred bytes; what is longer is none of its answers.
_LONGEST_BODY = 64 * 1024
#: So many connections may break under one batch; then it is the gateway that is away.
_BREAKS = 3
_CHARACTERS = 200
#: Seconds without news after which libcurl is told to read, whatever the sockets say: it reads ahead of
#: TLS, and what was read for a push that thereby ended is left in memory, where no socket tells of it.
_LOOK = 0.1

_NOT_REWOUND = "seek callback returned error"
_TLS_REFUSED = frozenset(
    {
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_SSL_PINNEDPUBKEYNOTMATCH,
    }
)
_NO_CONNECTION = frozenset(
    {
        pycurl.E_COULDNT_RESOLVE_HOST,
        pycurl.E_COULDNT_RESOLVE_PROXY,
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_UNSUPPORTED_PROTOCOL,
    }
)
#: libcurl's CURLE_HTTP2_STREAM, which pycurl does not name
_HTTP2_STREAM = 92
_STREAM = frozenset({_HTTP2_STREAM, pycurl.E_OPERATION_TIMEDOUT, pycurl.E_FILESIZE_EXCEEDED})


class CurlEngine:
    """Lanes for threads: each write takes one that is free, or a new one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lock = Lock()
        self._free: list[_Lane] = []

    def ask(self, request: Request) -> Reply:
        """Send one request; see :class:`aggregator.sinks.push_engine.Engine`."""
        question = Question(request)
        self.run(question)
        return question.result(self._endpoint.url)

    def run(self, batch: Batch) -> None:
        """Send a batch."""
        with self._lock:
            lane = self._free.pop() if self._free else _Lane(self._endpoint)
        try:
            lane.run(batch)
        except BaseException:
            lane.close()
            raise
        with self._lock:
            self._free.append(lane)

    def close(self) -> None:
        """Close the connections of all lanes."""
        with self._lock:
            lanes, self._free = self._free, []
        for lane in lanes:
            lane.close()


class _Slot:
    """One easy handle with its buffers, used again and again."""

    __slots__ = ("handle", "head", "number", "said", "source")

    def __init__(self, endpoint: Endpoint) -> None:
        self.number = -1
        self.head: Any = None
        self.said: list[bytes] = []
        self.source = BytesIO()
        self.handle = handle = pycurl.Curl()
        handle.slot = self
        for option, value in _options(endpoint):
            handle.setopt(option, value)
        handle.setopt(pycurl.WRITEFUNCTION, self.said.append)
        handle.setopt(pycurl.READFUNCTION, self.source.read)
        handle.setopt(pycurl.SEEKFUNCTION, _refuse_to_rewind)

    def load(self, number: int, base: bytes, request: Request) -> Any:
        self.number = number
        self.said.clear()
        handle, source = self.handle, self.source
        handle.setopt(pycurl.URL, base + request.path)
        handle.setopt(pycurl.HTTPHEADER, request.headers)
        source.__init__(request.body)  # type: ignore[misc]  # its method read stays the one that is set
        handle.setopt(pycurl.POSTFIELDSIZE, len(request.body))
        return handle

    def close(self) -> None:
        self.handle.slot = None
        self.handle.close()


def _refuse_to_rewind(_offset: int, _origin: int) -> int:
    return int(pycurl.SEEKFUNC_FAIL)


def _options(endpoint: Endpoint) -> list[tuple[int, Any]]:
    options = [
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE),
        (pycurl.PIPEWAIT, 1),
        (pycurl.POST, 1),
        (pycurl.NOSIGNAL, 1),
        (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
        (pycurl.SSL_VERIFYPEER, 1),
        (pycurl.SSL_VERIFYHOST, 2),
        (pycurl.CAINFO, str(endpoint.ca or trusted())),
        (pycurl.CONNECTTIMEOUT_MS, int(endpoint.timeout * 1000)),
        (pycurl.TIMEOUT_MS, int(endpoint.timeout * 1000)),
        (pycurl.MAXFILESIZE, _LONGEST_BODY),
        (pycurl.BUFFERSIZE, 16 * 1024),
        (pycurl.UPLOAD_BUFFERSIZE, 16 * 1024),
        (pycurl.TCP_KEEPALIVE, 1),
    ]
    if endpoint.certificate:
        options += [(pycurl.SSLCERT, str(endpoint.certificate)), (pycurl.SSLKEY, str(endpoint.certificate))]
    return options


def trusted() -> str:
    """Return the file of certificates that this machine trusts; certifi's where it has none."""
    from certifi import where  # noqa: PLC0415

    return ssl.get_default_verify_paths().cafile or where()


class _Lane:
    """One multi handle: its connections, and as many easy handles as pushes were ever under way on it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._base = endpoint.url.encode()
        self._idle: list[_Slot] = []
        self._busy: dict[int, _Slot] = {}
        self._wake = inf
        self._heard = self._news = 0.0
        self._late = False
        self._broken: set[int] = set()
        self._sockets: set[int] = set()
        self._connect()

    def run(self, batch: Batch) -> None:
        self._heard = self._news = now = monotonic()
        latest = now + 2 * self._endpoint.timeout
        self._late = False
        self._broken.clear()
        while True:
            pause = self._fill(batch, now)
            if not self._busy and pause is None:
                return
            self._turn(now, now + pause if pause is not None else inf)
            self._reap(batch)
            now = monotonic()
            if now - self._heard >= self._endpoint.timeout and (self._busy or self._late):
                self._give_up(batch, "timeout", f"silent for {self._endpoint.timeout:g} s")
            elif now >= latest:
                batch.stop(Verdict(Fate.RETRY, "unsent", "the gateway takes them too slowly"))

    def close(self) -> None:
        """Close all connections and handles."""
        self._disconnect()
        for slot in self._idle:
            slot.close()
        self._idle.clear()

    def _fill(self, batch: Batch, now: float) -> float | None:
        """Have pushes leave; return in how many seconds more may, None if that depends on others."""
        busy, most = self._busy, self._endpoint.streams
        if not busy:
            self._heard = now
        while len(busy) < most:
            taken = batch.take()
            if taken is None:
                return batch.wait()
            slot = self._idle.pop() if self._idle else _Slot(self._endpoint)
            busy[id(slot)] = slot
            self._multi.add_handle(slot.load(taken[0], self._base, taken[1]))
        return None

    def _turn(self, now: float, until: float) -> None:
        """Wait until something can be read or written, a timer is due, or ``until``; and do it."""
        deadline = min(self._wake, until)
        if self._busy:
            deadline = min(deadline, self._heard + self._endpoint.timeout, self._news + _LOOK)
        events = self._poll.poll(max(0.0, deadline - now))
        for fd, event in events:
            readable = event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR)
            mask = (pycurl.CSELECT_IN if readable else 0) | (
                pycurl.CSELECT_OUT if event & select.EPOLLOUT else 0
            )
            self._multi.socket_action(fd, mask)
        now = monotonic()
        if self._wake <= now:
            self._wake = inf
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        if events:
            self._news = now
        elif now - self._news >= _LOOK:
            self._news = now
            for fd in tuple(self._sockets):
                self._multi.socket_action(fd, pycurl.CSELECT_IN)

    def _reap(self, batch: Batch) -> None:
        left = 1
        while left:
            left, ended, failed = self._multi.info_read()
            for handle in ended:
                slot = self._free(handle)
                status = handle.getinfo(pycurl.RESPONSE_CODE)
                reply = _OK if status == 200 and not slot.said else _reply(handle, status, slot)  # noqa: PLR2004
                batch.answered(slot.number, reply)
            if ended:
                self._heard, self._late = monotonic(), False
            for handle, code, words in failed:
                if id(handle.slot) in self._busy:  # not given up together with another
                    self._failed(batch, handle, code, words)

    def _free(self, handle: Any) -> _Slot:
        slot: _Slot = handle.slot
        self._multi.remove_handle(handle)
        del self._busy[id(slot)]
        self._idle.append(slot)
        return slot

    def _failed(self, batch: Batch, handle: Any, code: int, words: str) -> None:
        slot = self._free(handle)
        problem = "".join(c if c.isprintable() else " " for c in words[:_CHARACTERS])
        if code == pycurl.E_SEND_FAIL_REWIND and words.startswith(_NOT_REWOUND):
            batch.untouched(slot.number, "the gateway refused the stream")
            return
        timed_out = code == pycurl.E_OPERATION_TIMEDOUT
        self._late = self._late or timed_out
        reason = "timeout" if timed_out else "stream-lost"
        batch.uncertain(slot.number, reason if code in _STREAM else "connection-lost", problem)
        if code in _STREAM:
            return
        fault = self._fault(code, problem)
        if fault is not None:
            self._stop(batch, fault)
            return
        self._broken.add(handle.getinfo(pycurl.CONN_ID))
        if len(self._broken) >= _BREAKS:
            self._stop(batch, SinkUnavailableError(f"{self._endpoint.url} breaks connections: {problem}"))

    def _fault(self, code: int, problem: str) -> SinkError | None:
        """Return what concerns every push."""
        if code in _TLS_REFUSED or ("alert" in problem and "certificate" in problem):
            return SinkBlockedError(f"TLS with {self._endpoint.url}: {problem}")
        if code in _NO_CONNECTION:
            return SinkUnavailableError(f"no connection to {self._endpoint.url}: {problem}")
        return None

    def _stop(self, batch: Batch, fault: SinkError) -> None:
        blocked = isinstance(fault, SinkBlockedError)
        fate, reason = (Fate.BLOCKED, "tls") if blocked else (Fate.RETRY, "connection-lost")
        batch.stop(Verdict(fate, reason, str(fault)), fault)
        self._give_up(batch, reason, str(fault))

    def _give_up(self, batch: Batch, reason: str, problem: str) -> None:
        """Let go of everything under way; nothing goes over these connections any more."""
        error = SinkUnavailableError(f"no answer from {self._endpoint.url}: {problem}")
        batch.stop(Verdict(Fate.RETRY, reason, problem), error)
        for slot in list(self._busy.values()):
            batch.uncertain(self._free(slot.handle).number, reason, problem)
        self._disconnect()
        self._connect()

    def _connect(self) -> None:
        self._wake = inf
        self._poll = select.epoll()
        self._multi = multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, self._endpoint.connections)
        multi.setopt(pycurl.M_MAXCONNECTS, self._endpoint.connections)
        multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, self._endpoint.streams)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._alarm)

    def _disconnect(self) -> None:
        for slot in list(self._busy.values()):
            self._free(slot.handle)
        self._multi.close()
        self._poll.close()
        self._sockets.clear()

    def _watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        """Have ``fd`` watched as libcurl asks; what it closed is gone from the list already."""
        if self._poll.closed:
            return
        mask = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (
            select.EPOLLOUT if what & pycurl.POLL_OUT else 0
        )
        with suppress(OSError):
            if what == pycurl.POLL_REMOVE:
                self._sockets.discard(fd)
                self._poll.unregister(fd)
                return
            self._sockets.add(fd)
            try:
                self._poll.modify(fd, mask)
            except FileNotFoundError:
                self._poll.register(fd, mask)

    def _alarm(self, milliseconds: int) -> None:
        self._wake = inf if milliseconds < 0 else monotonic() + milliseconds / 1000


_OK = Reply(200)


def _reply(handle: Any, status: int, slot: _Slot) -> Reply:
    return Reply(status, b"".join(slot.said), float(handle.getinfo(pycurl.RETRY_AFTER)))
