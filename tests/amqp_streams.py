"""AMQP streams without a broker: frames from values, a socket that plays them, clients that listen.

A ``Client`` is a connection of kombu's as it is after its opening: whatever class it is of, it is told
the same bytes, and notes all that its owner would see.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.exceptions import AMQPError
from amqp.serialization import dumps
from amqp.transport import TCPTransport
from kombu.exceptions import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

FRAME_MAX = 4096


def frame(kind: int, channel: int, payload: bytes, end: int = 0xCE) -> bytes:
    """One frame."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def method(channel: int, signature: tuple[int, int], layout: str = "", *values: Any) -> bytes:
    """A method frame."""
    return frame(1, channel, struct.pack(">HH", *signature) + (dumps(layout, values) if layout else b""))


def content(channel: int, properties: bytes, body: bytes, pieces: Iterable[int] = ()) -> list[bytes]:
    """The header frame and body frames; ``pieces`` are the places where the body is cut."""
    cuts = [0, *sorted(cut for cut in pieces if 0 < cut < len(body)), len(body)]
    bodies = [frame(3, channel, body[a:b]) for a, b in pairwise(cuts) if b > a]
    return [frame(2, channel, struct.pack(">HHQ", 60, 0, len(body)) + properties), *bodies]


def deliver(
    channel: int = 1,
    tag: int = 1,
    body: bytes = b"body",
    properties: bytes = b"\0\0",
    *,
    consumer: str = "c",
    redelivered: bool = False,
    route: tuple[str, str] = ("x", "k"),
    pieces: Iterable[int] = (),
) -> list[bytes]:
    """The frames of a delivery."""
    opening = method(channel, spec.Basic.Deliver, "sLbss", consumer, tag, redelivered, *route)
    return [opening, *content(channel, properties, body, pieces)]


HEARTBEAT = frame(8, 0, b"")


class Socket:
    """Plays chunks of bytes; None among them is a wait that timed out. Then it stays silent, or ends."""

    def __init__(self, chunks: Iterable[bytes | None], *, closes: bool = False) -> None:
        self._chunks = [chunk for chunk in chunks if chunk != b""]
        self._chunks.reverse()
        self._closes = closes
        self.sent = bytearray()

    @property
    def played(self) -> bool:
        """Whether all was heard."""
        return not self._chunks

    def recv(self, size: int) -> bytes:
        """Return at most so many bytes."""
        chunk = self._chunks.pop() if self._chunks else None
        if chunk is None:
            if self._closes and not self._chunks:
                return b""
            raise TimeoutError
        if len(chunk) > size:
            self._chunks.append(chunk[size:])
        return chunk[:size]

    def sendall(self, data: bytes) -> None:
        """Take what the client says."""
        self.sent += data

    def gettimeout(self) -> None:
        """None is what a blocking socket says."""

    def settimeout(self, seconds: float | None) -> None:
        """Nothing takes time here."""

    shutdown = settimeout

    def getsockname(self) -> tuple[str, int]:
        """For py-amqp's texts."""
        return ("127.0.0.1", 1)

    getpeername = getsockname

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Client:
    """A connection in which channels 1 and 2 consume under the tags ``c`` and ``d``."""

    connection_class: Any
    chunks: list[bytes | None]
    closes: bool = False
    channels: tuple[int, ...] = (1, 2)
    tags: tuple[str, ...] = ("c", "d")
    frame_max: int = FRAME_MAX
    events: list[tuple[Any, ...]] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        self.socket = Socket(self.chunks, closes=self.closes)
        self.connection = self.connection_class(frame_max=self.frame_max, on_blocked=self._note("blocked"))
        self.connection.on_unblocked = lambda: self.events.append(("unblocked",))
        transport = TCPTransport("localhost:1")
        transport.sock, transport.connected = self.socket, True
        transport._write = self.socket.sendall
        transport._quick_recv = self.socket.recv
        self.connection.transport = transport
        self.connection.on_inbound_frame = self.connection.frame_handler_cls(
            self.connection, self.connection.on_inbound_method
        )
        self.connection.frame_writer = self.connection.frame_writer_cls(self.connection, transport)
        self.connection._handshake_complete = True
        for number in self.channels:
            channel = self.connection.Channel(self.connection, number)
            channel.is_open = True
            for name in ("basic_return", "basic_ack", "basic_nack"):
                channel.events[name].add(self._note(name))
            for tag in self.tags:
                self.consume(channel, tag)

    def consume(self, channel: Any, tag: str) -> None:
        """Listen as kombu's consumer does."""
        channel.callbacks[tag] = lambda raw: self.events.append(self.look(channel.message_to_python(raw)))
        channel.cancel_callbacks[tag] = self._note("cancelled")

    @staticmethod
    def look(message: Any) -> tuple[Any, ...]:
        """Return all that a message says."""
        try:
            return (
                "delivery", message.channel.channel_id, message.delivery_tag, message.body,
                message.delivery_info, repr(message.properties), repr(message.headers), message.content_type,
                message.content_encoding, len(message.errors), message.accept, message.acknowledged,
            )  # fmt: skip
        except DecodeError:
            raise
        except Exception as exc:
            raise AssertionError(f"{exc!r} is no word for what cannot be decoded") from exc

    def run(self, drain: Any = None) -> list[tuple[Any, ...]]:
        """Listen to the end or to the first error; return what was seen."""
        drain = drain or (lambda: self.connection.drain_events(timeout=1))
        while True:
            before = len(self.events)
            try:
                drain()
            except TimeoutError:
                if self.socket.played and len(self.events) == before:
                    return self.events
            except Exception as exc:  # noqa: BLE001 - which one, is what is asked
                self.events.append(("error", kind_of(exc), str(exc) if isinstance(exc, AMQPError) else ""))
                return self.events
            self.most = max(self.most, len(getattr(self.connection, "_input", b"")))

    def _note(self, name: str) -> Any:
        def note(*arguments: Any) -> None:
            self.events.append((name, *(repr(getattr(each, "properties", each)) for each in arguments)))

        return note


def kind_of(exc: Exception) -> str:
    """Return a protocol error's name; of all else that was no AMQP, that it could not be decoded."""
    if isinstance(exc, AMQPError | OSError) and type(exc).__name__ != "FrameSyntaxError":
        return type(exc).__name__
    return "lookup" if isinstance(exc, KeyError | AttributeError) else "undecodable"
