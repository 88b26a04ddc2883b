"""AMQP 0-9-1 frames in a buffer: which deliveries stand complete in it, and what else comes next.

Nothing here reads a socket or calls anyone. A delivery is three frames of one channel in a row::

    method   type 1, channel, size, 00 3c 00 3c, consumer tag, delivery tag, bits, exchange, routing key, ce
    header   type 2, channel, size, 00 3c, weight, size of the body, properties, ce
    body     type 3, channel, size, bytes, ce        (none where the body is empty)

:func:`scan` takes what stands in exactly this form. Anything else, a body in several frames too, it
leaves where it is: those frames are taken singly and are py-amqp's to judge.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from amqp.exceptions import FrameError, UnexpectedFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Container

METHOD, HEADER, BODY = 1, 2, 3
#: Class and method of ``basic.deliver``.
DELIVER: Final = b"\x00\x3c\x00\x3c"
#: Class and method of ``basic.get-ok``.
GET_OK: Final = b"\x00\x3c\x00\x47"
#: Octets of a frame beside its payload: type, channel and size before it, the end octet behind it.
OVERHEAD: Final = 8
#: The octet that ends each frame.
END: Final = 0xCE

#: Where the exchange stands in the payload of ``basic.get-ok``, behind method, tag and bits.
_GET_OK_ROUTE: Final = 13
_BASIC: Final = 60
#: Octets of a header frame's payload up to the flags, these included.
_LEAST_HEADER: Final = 14
#: Type, channel and size of a frame.
_frame: Final = Struct(">BHI").unpack_from
#: The same of a method frame, its class and method, and the length of the consumer tag.
_deliver: Final = Struct(">BHI4sB")
_read_deliver: Final = _deliver.unpack_from
_tag_and_bits: Final = Struct(">QB").unpack_from
#: Of a header frame: the end octet before it, type, channel, size, class, size of the body.
_header: Final = Struct(">BBHIHxxQ")
_read_header: Final = _header.unpack_from
#: Of a body frame: the end octet before it, type, channel, size.
_read_body: Final = Struct(">BBHI").unpack_from


class Arrival(NamedTuple):
    """A delivery as it came. A scan makes plain tuples in this order: they cost less.

    ``route``: exchange and routing key, two short strings. ``properties``: flags and values.
    """

    channel: int
    consumer: bytes
    tag: int
    bits: int
    route: bytes
    properties: bytes
    body: bytes


def scan(  # noqa: C901, PLR0911, PLR0912 - one loop without calls: this is what each message costs
    buffer: bytes, at: int, limit: int, busy: Container[int], take: Callable[[Any], object]
) -> tuple[int, int, int]:
    """Hand each delivery that stands complete in ``buffer`` from ``at`` on to ``take``, as a tuple.

    Ends at the first frame that is none, that is cut, or whose channel is ``busy`` with another
    message. ``limit``: the most octets of a payload. Returns where it ended, how many frames it took,
    and how many bytes have to come before anything more can be taken; 0 where a frame stands there
    that is no part of a whole delivery, or is beyond the limit.
    """
    size = len(buffer)
    frames = 0
    while True:
        if size - at < _deliver.size:
            return at, frames, missing(buffer, at, limit)
        kind, channel, length, method, consumer_length = _read_deliver(buffer, at)
        end = at + 7 + length
        if end >= size or length > limit:
            return at, frames, missing(buffer, at, limit)
        consumer_end = at + 12 + consumer_length
        if kind != METHOD or method != DELIVER or channel in busy or consumer_end + 11 > end:
            return at, frames, 0

        if size - end < _header.size:
            return at, frames, _missing_behind(buffer, end, limit)
        closed, kind, number, length, class_id, body_size = _read_header(buffer, end)
        header_end = end + 8 + length
        if header_end >= size or length > limit:
            return at, frames, _missing_behind(buffer, end, limit)
        if closed != END or kind != HEADER or number != channel or length < _LEAST_HEADER:
            return at, frames, 0
        if class_id != _BASIC or body_size > limit:
            return at, frames, 0

        if body_size:
            if size - header_end < OVERHEAD:
                return at, frames, _missing_behind(buffer, header_end, limit)
            closed, kind, number, length = _read_body(buffer, header_end)
            if closed != END or kind != BODY or number != channel or length != body_size:
                return at, frames, 0
            last = header_end + 8 + length
            if last >= size:
                return at, frames, last + 1 - size
        else:
            last = header_end
        if buffer[last] != END:
            return at, frames, 0

        tag, bits = _tag_and_bits(buffer, consumer_end)
        take(
            (
                channel,
                buffer[at + 12 : consumer_end],
                tag,
                bits,
                buffer[consumer_end + 9 : end],
                buffer[end + 20 : header_end],
                buffer[header_end + 8 : last],
            )
        )
        frames += 3 if body_size else 2
        at = last + 1


def missing(buffer: bytes, at: int, limit: int) -> int:
    """Return how many bytes the frame at ``at`` lacks; 0 if it is whole or beyond the limit."""
    rest = len(buffer) - at
    if rest < OVERHEAD:
        return OVERHEAD - rest
    length = _frame(buffer, at)[2]
    return 0 if length > limit else max(0, length + OVERHEAD - rest)


def _missing_behind(buffer: bytes, end: int, limit: int) -> int:
    """Return how many bytes the frame behind an end octet lacks; 0 too where that octet is broken."""
    return missing(buffer, end + 1, limit) if buffer[end] == END else 0


def split_deliver(channel: int, payload: bytes, properties: bytes, body: bytes) -> Arrival | None:
    """Return the delivery of a method frame's payload, or None where that is malformed."""
    consumer_end = 5 + payload[4] if len(payload) > len(DELIVER) else 0
    if not consumer_end or consumer_end + 11 > len(payload):
        return None
    tag, bits = _tag_and_bits(payload, consumer_end)
    consumer, route = payload[5:consumer_end], payload[consumer_end + 9 :]
    return Arrival(channel, consumer, tag, bits, route, properties, body)


def split_get_ok(channel: int, payload: bytes, properties: bytes, body: bytes) -> Arrival | None:
    """Return what ``basic.get`` brought as a delivery to no consumer, or None where it is malformed."""
    if len(payload) < _GET_OK_ROUTE + 2:
        return None
    tag, bits = _tag_and_bits(payload, len(GET_OK))
    return Arrival(channel, b"", tag, bits, payload[_GET_OK_ROUTE:], properties, body)


def join_deliver(arrival: Arrival) -> bytes:
    """Return the payload of the method frame that a delivery came with."""
    return b"".join(
        (
            DELIVER,
            bytes((len(arrival.consumer),)),
            arrival.consumer,
            arrival.tag.to_bytes(8, "big"),
            bytes((arrival.bits,)),
            arrival.route,
        )
    )


class FrameBuffer:
    """What was received and not taken yet: at most three frames and one read of the socket."""

    __slots__ = ("_at", "_buffer", "_missing", "_tail")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buffer = b""
        self._at = 0
        self._tail = bytearray()
        #: Bytes that are needed before anything can be taken; below 0: that is not known.
        self._missing = OVERHEAD

    def __len__(self) -> int:
        return len(self._buffer) - self._at + len(self._tail)

    @property
    def has_frame(self) -> bool:
        """Whether :meth:`take_frame` has something to say; known after a scan."""
        return self._missing == 0

    def feed(self, data: bytes) -> None:
        """Append what was received."""
        self._missing -= len(data)
        if self._missing > 0:
            self._tail += data  # bytes that trickle in must not be copied again and again
            return
        if self._at < len(self._buffer) or self._tail:
            data = b"".join((self._buffer[self._at :], self._tail, data))
            self._tail.clear()
        self._buffer, self._at = data, 0
        self._missing = -1

    def scan(self, limit: int, busy: Container[int], take: Callable[[Any], object]) -> int:
        """Hand on all deliveries up to the next other frame; return how many frames they were."""
        if self._missing >= 0:
            return 0
        self._at, frames, self._missing = scan(self._buffer, self._at, limit, busy, take)
        if self._missing and self._at:
            self._buffer, self._at = self._buffer[self._at :], 0
        return frames

    def take_frame(self, limit: int) -> tuple[int, int, bytes]:
        """Return type, channel and payload of the next frame; there must be one.

        Raises ``UnexpectedFrame`` for a wrong end octet, and ``FrameError``, again and again, for a
        frame beyond the limit: where the next one begins is not known then.
        """
        buffer, at = self._buffer, self._at
        kind, channel, length = _frame(buffer, at)
        if length > limit:
            raise FrameError(f"a frame of {length} octets came; {limit} are possible")
        end = at + 7 + length
        self._at, self._missing = end + 1, -1
        if buffer[end] != END:
            raise UnexpectedFrame(f"Received frame_end {buffer[end]:#04x} while expecting 0xce")
        return kind, channel, buffer[at + 7 : end]
