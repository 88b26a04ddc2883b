"""A message as kombu publishes and receives it.

Stored are the raw body and two JSON objects, AMQP's basic properties and the headers. At
receipt nothing is decompressed or decoded: a bomb in the body harms nobody who does not ask for
the payload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kombu.compression import decompress
from kombu.exceptions import EncodeError
from kombu.message import Message as KombuMessage
from kombu.serialization import loads

from consumers.transports.sqlite_properties import pack, unpack
from consumers.transports.sqlite_store import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from consumers.transports.sqlite_channel import Channel
    from consumers.transports.sqlite_store import Leased

DELIVERY_COUNT: Final = "x-delivery-count"
"""The header that holds the number of earlier deliveries; absent at the first one."""

# kombu's own notes; they are no properties of the message
_INTERNAL: Final = frozenset({"delivery_info", "delivery_tag", "body_encoding"})


class Prepared:
    """A message that kombu is about to publish, complete but for its exchange and routing key."""

    __slots__ = ("body", "expiration", "packed")

    def __init__(
        self, body: bytes | str | None, properties: Mapping[str, Any], headers: Mapping[str, Any]
    ) -> None:
        self.body = _as_bytes(body)
        kept = {
            name: value for name, value in properties.items() if name not in _INTERNAL and value is not None
        }
        self.expiration = _milliseconds(kept.get("expiration"))
        self.packed = pack({"properties": kept, "headers": dict(headers)})

    def outgoing(self, exchange: str, routing_key: str) -> Outgoing:
        """Return it addressed."""
        return Outgoing(exchange, routing_key, self.packed, self.body, self.expiration)


def _as_bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise EncodeError(f"a body is bytes or text, not a {type(body).__name__}")


def _milliseconds(expiration: Any) -> int | None:
    if expiration is None:
        return None
    try:
        number = int(expiration)
    except (TypeError, ValueError):
        raise EncodeError(f"expiration {expiration!r} is no number of milliseconds") from None
    if number < 0:
        raise EncodeError(f"expiration {expiration!r} lies in the past")
    return number


class Message(KombuMessage):
    """A received message; ``body`` is exactly what was published."""

    # a tuple shared by all: nothing is decoded, so nothing can have failed
    errors: tuple[()] = ()  # type: ignore[assignment]

    def __init__(self, leased: Leased, channel: Channel, tag: int, consumer_tag: str) -> None:
        # not through kombu's constructor, which decompresses
        meta = unpack(leased.properties)
        properties, headers = meta["properties"], meta["headers"]
        headers.pop(DELIVERY_COUNT, None)
        if leased.deliveries:
            headers[DELIVERY_COUNT] = leased.deliveries
        self.channel = channel
        self.delivery_tag = tag
        self.content_type = properties.get("content_type")
        self.content_encoding = properties.get("content_encoding")
        self.headers = headers
        self.properties = properties
        self.body = leased.body
        self.accept = None
        self._decoded_cache = None
        self._state = "RECEIVED"
        self.delivery_info = {
            "consumer_tag": consumer_tag,
            "delivery_tag": tag,
            "redelivered": leased.deliveries > 0,
            "exchange": leased.exchange,
            "routing_key": leased.routing_key,
        }

    def _decode(self) -> Any:
        compression = self.headers.get("compression")
        body = decompress(self.body, compression) if compression else self.body
        return loads(body, self.content_type, self.content_encoding, accept=self.accept)
