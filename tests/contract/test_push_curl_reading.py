"""Answers that libcurl has read ahead of TLS, where no socket tells of them, are found all the same.

A gateway sends one answer's head, waits for a given moment of libcurl's turn, and sends all the rest at
once: more than libcurl takes out of TLS in one go. Where the push that reads it is the one that thereby
ends, the others' answers stay in memory. Which moment that is, is libcurl's own affair: each is tried.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress

import pycurl
import pytest
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded
from h2.settings import SettingCodes

from aggregator.sinks.base import WRITTEN
from aggregator.sinks.push_batch import Batch, Request, Ruling
from aggregator.sinks.push_curl_client import CurlEngine, _Slot
from aggregator.sinks.push_engine import Endpoint

pytestmark = pytest.mark.integration

PUSHES = 4
BODY = b"x" * 10_000
#: Calls of libcurl's progress after the first answer's head; those of one turn, and some more.
MOMENTS = range(1, 3 * PUSHES)


class Gateway(threading.Thread):
    """Serves one connection; ``rest`` is set when the rest is to be sent, ``sent`` when it is."""

    def __init__(self, context):
        super().__init__(daemon=True)
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.rest, self.sent, self.over = threading.Event(), threading.Event(), threading.Event()
        self.start()

    def run(self):
        with suppress(OSError), self.listener:
            taken, _ = self.listener.accept()
            with self.context.wrap_socket(taken, server_side=True) as tls:
                self.answer(tls)

    def answer(self, tls):
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        http.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 100})
        asked = []
        while len(asked) < PUSHES:
            tls.sendall(http.data_to_send())
            events = http.receive_data(tls.recv(1 << 16))
            asked.extend(event.stream_id for event in events if isinstance(event, StreamEnded))
        http.send_headers(asked[0], [(":status", "200")])
        tls.sendall(http.data_to_send())
        self.rest.wait(10)
        http.send_data(asked[0], b"x", end_stream=True)
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        tls.sendall(http.data_to_send())
        for stream in asked[1:]:
            http.send_headers(stream, [(":status", "200")])
            http.send_data(stream, BODY, end_stream=True)
        tls.sendall(http.data_to_send())
        tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        self.sent.set()
        self.over.wait(10)


class Anybody:
    """A gateway's part for batches: everything is written."""

    def request(self, _address):
        return Request(b"/push", [b"accept:"], b"{}")

    def ruling(self, _address, _request, _reply):
        return Ruling(WRITTEN)

    def pause(self):
        return 0.0


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    authority = trustme.CA()
    ca = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    return context, ca


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_was_read_ahead_is_found(trusted, monkeypatch, moment):
    context, ca = trusted
    gateway = Gateway(context)
    calls = iter(range(1, 10_000))
    begun = threading.Event()

    def progress(*_):
        if begun.is_set() and next(calls) == moment:
            gateway.rest.set()
            assert gateway.sent.wait(10)

    def watched(slot, endpoint):
        made(slot, endpoint)
        slot.handle.setopt(pycurl.HEADERFUNCTION, lambda _line: begun.set())
        slot.handle.setopt(pycurl.NOPROGRESS, 0)
        slot.handle.setopt(pycurl.XFERINFOFUNCTION, progress)

    made = _Slot.__init__
    monkeypatch.setattr(_Slot, "__init__", watched)
    engine = CurlEngine(Endpoint("127.0.0.1", gateway.listener.getsockname()[1], ca, None, 1, 100, 2.0))
    batch = Batch([None] * PUSHES, Anybody())
    try:
        engine.run(batch)
    finally:
        engine.close()
        gateway.rest.set()
        gateway.over.set()
        gateway.join()
    assert batch.finish() == [WRITTEN] * PUSHES
