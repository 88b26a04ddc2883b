"""A client of HTTP/2 that shows each frame: what the simulators of gateways are held against."""

from __future__ import annotations

import json
import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import jwt
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingAckReceived, ResponseReceived, StreamEnded, StreamReset

TOKEN = "ab" * 32
PAYLOAD = b'{"aps":{"alert":"hello"}}'


def provider_token(apns, **claims):
    """Return a token that ``apns`` takes, unless ``claims`` say something else; ``kid`` and ``alg`` too."""
    claims = {"iss": apns.team_id, "iat": int(time.time()), "kid": apns.key_id, "alg": "ES256"} | claims
    kid, alg, key = claims.pop("kid"), claims.pop("alg"), claims.pop("key", None)
    return jwt.encode(claims, key or apns.key.read_text(), algorithm=alg, headers={"kid": kid})


@dataclass
class Stream:
    """What came of one request so far."""

    headers: dict = field(default_factory=dict)
    body: bytes = b""
    frames: int = 0
    ended: bool = False
    reset: int | None = None

    @property
    def status(self):
        return int(self.headers[":status"])

    @property
    def document(self):
        return json.loads(self.body)

    @property
    def done(self):
        return self.ended or self.reset is not None


class Http2Client:
    """One connection, to be used in a ``with`` block; all waits end after ten seconds."""

    def __init__(self, gateway, certificate=None, **headers):
        url = urlsplit(gateway.url)
        context = ssl.create_default_context(cafile=gateway.ca)
        context.set_alpn_protocols(["h2"])
        if certificate:
            context.load_cert_chain(certificate)
        raw = socket.create_connection((url.hostname, url.port), timeout=10)
        self.socket = context.wrap_socket(raw, server_hostname=url.hostname)
        self.http2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.headers = headers
        self.streams = {}
        self.events = []
        self.closed = False
        self.acknowledges = True
        self.http2.initiate_connection()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        if data := self.http2.data_to_send():
            self.socket.sendall(data)

    def send(self, path, body=PAYLOAD, method="POST", more=(), **headers):
        """Send a request, underscores of names as hyphens; return its stream."""
        stream = self.http2.get_next_available_stream_id()
        given = self.headers | headers
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        fields += [(name.replace("_", "-"), value) for name, value in given.items() if value is not None]
        self.streams[stream] = Stream()
        self.http2.send_headers(stream, [*fields, *more], end_stream=not body)
        while body:
            self.http2.send_data(stream, body[:16_384], end_stream=len(body) <= 16_384)
            body = body[16_384:]
        self.flush()
        return stream

    def push(self, token=TOKEN, body=PAYLOAD, **headers):
        """Send one to APNs, and return what came of it."""
        return self.wait(self.send(f"/3/device/{token}", body, **headers))

    def read(self):
        """Take what comes; return the events."""
        data = self.socket.recv(65_536)
        self.closed = not data
        events = self.http2.receive_data(data) if data else []
        for event in events:
            stream = self.streams.get(getattr(event, "stream_id", None), Stream())
            match event:
                case ResponseReceived():
                    stream.headers = dict(event.headers)
                case DataReceived():
                    stream.body += event.data
                    stream.frames += 1
                    if self.acknowledges:
                        self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    stream.ended = True
                case StreamReset():
                    stream.reset = event.error_code
        self.events += events
        self.flush()
        return events

    def until(self, condition):
        while not condition():
            if self.closed:
                raise ConnectionError("it has ended")
            self.read()

    def wait(self, stream):
        self.until(lambda: self.streams[stream].done)
        return self.streams[stream]

    def ping(self):
        """Return when the gateway has read all that was sent."""
        self.events = [event for event in self.events if not isinstance(event, PingAckReceived)]
        self.http2.ping(b"12345678")
        self.flush()
        self.event(PingAckReceived)

    def event(self, kind):
        """Wait for an event of a kind; return the last."""
        self.until(lambda: any(isinstance(event, kind) for event in self.events))
        return [event for event in self.events if isinstance(event, kind)][-1]

    def until_closed(self):
        while not self.closed:
            try:
                self.read()
            except ConnectionError:
                self.closed = True
