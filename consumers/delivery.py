"""Deliveries as transports bring them; nothing is decompressed or decoded at receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.exceptions import DecodeError

from aggregator.delivery import Delivery
from aggregator.errors import MessageRefusedError
from consumers.transports.amqp_properties import (
    may_have_header,
    read_declared,
    read_headers,
    read_properties,
    read_property,
    read_route,
    read_said,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from aggregator.delivery import Link
    from consumers.transports.amqp_frames import Arrival

# kombu's own notes among the properties of a virtual transport
_NOTES = frozenset({"delivery_info", "delivery_tag", "body_encoding"})


class AmqpDelivery(Delivery):
    """A message of py-amqp, without kombu's message object around it."""

    __slots__ = ("_headers", "_info", "_properties")

    def __init__(self, raw: Any, link: Link) -> None:
        info = raw.delivery_info
        body = raw.body
        super().__init__(
            body
            if isinstance(body, bytes)
            else bytes(body, "utf-8")
            if isinstance(body, str)
            else bytes(body),
            link,
            info["delivery_tag"],
            redelivered=bool(info["redelivered"]),
        )
        self._info = info
        self._properties = raw.properties
        self._headers = raw.properties.pop("application_headers", None) or {}

    @property
    def headers(self) -> Mapping[str, Any]:
        """The application's headers."""
        return self._headers

    @property
    def properties(self) -> Mapping[str, Any]:
        """AMQP's basic properties that were set."""
        return self._properties  # type: ignore[no-any-return]

    @property
    def exchange(self) -> str:
        """The exchange it was published to."""
        return self._info["exchange"]  # type: ignore[no-any-return]

    @property
    def routing_key(self) -> str:
        """The routing key it was published with."""
        return self._info["routing_key"]  # type: ignore[no-any-return]


class BatchedDelivery(Delivery):
    """A message of the batched transport, its properties as they came on the wire.

    Nothing of them is decoded before it is asked for, and the headers alone are kept then. What cannot
    be decoded refuses this message (``bad-properties``) when someone asks for it.
    """

    __slots__ = ("_headers", "_raw", "_route")

    _headers: Mapping[str, Any] | None

    def __init__(self, link: Link, arrival: Arrival) -> None:
        # all of the base's constructor too: a call of it would be a quarter of what receiving costs
        _, _, self.tag, bits, self._route, self._raw, self.body = arrival
        self.link = link
        self.redelivered = bits & 1 == 1
        self.id = ""
        self.document = b""
        self.fingerprint = self.state = 0
        self.follower = self._json = self._headers = None

    @property
    def headers(self) -> Mapping[str, Any]:
        """The application's headers."""
        if self._headers is None:
            self._headers = _refusing(read_headers, self._raw)
        return self._headers

    @property
    def properties(self) -> Mapping[str, Any]:
        """AMQP's basic properties that were set."""
        return _refusing(read_properties, self._raw)  # type: ignore[no-any-return]

    def header(self, name: str) -> Any:
        """Return a header; the table is not decoded where it cannot have it."""
        if self._headers is None and not may_have_header(self._raw, name.encode("utf-8", "surrogatepass")):
            return None
        return self.headers.get(name)

    def basic_property(self, name: str) -> Any:
        """Return a property without looking at the others."""
        return _refusing(read_property, self._raw, name)

    def declared(self) -> tuple[Any, Any]:
        """Return content type and content encoding: asked of each message, and mostly known."""
        return _refusing(read_declared, self._raw)  # type: ignore[no-any-return]

    def said(self) -> Hashable:
        """Return what its publisher's headers say, undecoded where that can be."""
        said = read_said(self._raw)
        return super().said() if said is None else said

    @property
    def exchange(self) -> str:
        """The exchange it was published to; bytes that are no UTF-8 are escaped."""
        return read_route(self._route, "backslashreplace")[0]

    @property
    def routing_key(self) -> str:
        """The routing key it was published with; bytes that are no UTF-8 are escaped."""
        return read_route(self._route, "backslashreplace")[1]


def _refusing(read: Callable[..., Any], raw: bytes, *arguments: str) -> Any:
    try:
        return read(raw, *arguments)
    except DecodeError as exc:
        problem = str(exc)
    raise MessageRefusedError("bad-properties", problem)


class KombuDelivery(Delivery):
    """A message of any other transport, as kombu gives it."""

    __slots__ = ("_message",)

    def __init__(self, message: Any, link: Link) -> None:
        body = message.body
        if body is None:
            body = b""
        elif not isinstance(body, bytes):
            body = body.encode() if isinstance(body, str) else bytes(body)
        info = message.delivery_info or {}
        super().__init__(body, link, message.delivery_tag, redelivered=bool(info.get("redelivered")))
        self._message = message

    @property
    def headers(self) -> Mapping[str, Any]:
        """The application's headers."""
        return self._message.headers or {}

    @property
    def properties(self) -> Mapping[str, Any]:
        """AMQP's basic properties that were set."""
        message = self._message
        found = {name: value for name, value in message.properties.items() if name not in _NOTES}
        for name in ("content_type", "content_encoding"):
            value = getattr(message, name)
            if value is not None:
                found[name] = value
        return found

    @property
    def exchange(self) -> str:
        """The exchange it was published to."""
        return (self._message.delivery_info or {}).get("exchange") or ""

    @property
    def routing_key(self) -> str:
        """The routing key it was published with."""
        return (self._message.delivery_info or {}).get("routing_key") or ""


def undecoded(message_class: type) -> type:
    """Return a virtual transport's message class that leaves the body as it is.

    kombu decompresses in the constructor, without a bound, before anyone could refuse: 1 MiB
    becomes 1 GiB. So the header is hidden from it, and put back.
    """

    class Undecoded(message_class):  # type: ignore[misc]
        def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
            headers = payload.get("headers") or {}
            if "compression" in headers:
                payload = {**payload, "headers": {k: v for k, v in headers.items() if k != "compression"}}
            super().__init__(payload, channel=channel, **kwargs)
            self.headers = headers

        def serializable(self) -> dict[str, Any]:
            return {**super().serializable(), "headers": dict(self.headers)}

    return Undecoded
