"""A delivery as kombu's programs know it, made from the raw frames; what is not asked for stays raw."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import kombu.message
from kombu.compression import decompress

from consumers.transports.amqp_properties import may_have_header, read_all, read_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from consumers.transports.amqp_batched import Channel
    from consumers.transports.amqp_frames import Arrival

_CONTENT_ENCODING: Final = 0x40


class Message(kombu.message.Message):
    """kombu's message. Attributes come into being when they are first read, and can be set.

    Reading what cannot be decoded raises kombu's ``DecodeError``: a broken header table concerns its
    message alone. Where a publisher says that its body is compressed, and kombu would inflate it at
    receipt, it is inflated when ``body`` or ``errors`` is asked for.
    """

    __slots__ = ("_bits", "_consumer", "_errors", "_properties", "_raw", "_route")

    def __init__(self, channel: Channel, arrival: Arrival) -> None:
        # not kombu's constructor: it decodes everything
        _, self._consumer, self.delivery_tag, self._bits, self._route, properties, body = arrival
        self._properties = properties
        self.channel = channel
        self.accept = None
        self._state = "RECEIVED"
        self._decoded_cache = None
        self._errors: Any = ()
        if may_have_header(properties, b"compression"):
            self._raw, self._errors = body, None
        elif channel.auto_decode and properties[0] & _CONTENT_ENCODING:
            self._raw = body
        else:
            self.body = body or ""  # py-amqp's word for no body

    @property
    def errors(self) -> Any:
        """What was wrong with the body before anyone decoded it: kombu asks it of each message."""
        if self._errors is None:
            _ = self.body
        return self._errors

    @errors.setter
    def errors(self, errors: Any) -> None:
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        """Fill in an attribute of kombu's that was not read or set before."""
        make = _LAZY.get(name)
        if make is None:
            raise AttributeError(name)
        value = make(self)
        setattr(self, name, value)
        return value

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge; as kombu does it, without reading the delivery's route for it."""
        channel = self.channel
        if channel is None or channel.no_ack_consumers or self._state != "RECEIVED":
            super().ack(multiple=multiple)  # type: ignore[no-untyped-call]
        else:
            channel.basic_ack(self.delivery_tag, multiple=multiple)
            self._state = "ACK"

    def _make_delivery_info(self) -> dict[str, Any]:
        exchange, routing_key = read_route(self._route)
        return {
            "consumer_tag": self._consumer.decode("utf-8", "surrogatepass"),
            "delivery_tag": self.delivery_tag,
            "redelivered": bool(self._bits & 1),
            "exchange": exchange,
            "routing_key": routing_key,
        }

    def _make_properties(self) -> dict[str, Any]:
        return read_all(self._properties)

    def _make_headers(self) -> dict[str, Any]:
        # the same object as in the properties, as with kombu
        return self.properties.get("application_headers") or {}

    def _make_body(self) -> Any:
        body: Any = self._raw or ""
        if "content_encoding" in self.properties and (self.channel is None or self.channel.auto_decode):
            # as py-amqp: a text, unless the publisher's word was no charset, or wrong
            with suppress(Exception):
                body = body.decode(self.properties["content_encoding"])
        if self._errors is None:
            self._errors = []
            if method := self.headers.get("compression"):
                try:
                    body = decompress(body, method)
                except Exception:  # noqa: BLE001 - as kombu: the consumer is told
                    self._errors.append(sys.exc_info())
        return body


_LAZY: Final[dict[str, Callable[[Message], Any]]] = {
    "body": Message._make_body,  # noqa: SLF001
    "content_encoding": lambda message: message.properties.get("content_encoding"),
    "content_type": lambda message: message.properties.get("content_type"),
    "delivery_info": Message._make_delivery_info,  # noqa: SLF001
    "headers": Message._make_headers,  # noqa: SLF001
    "properties": Message._make_properties,  # noqa: SLF001
}
