"""One publish as AMQP 0-9-1 frames, ready for the socket.

py-amqp writes each message with a call of its own and serialises what never changes again and
again; here many messages are joined into one write. The values are still encoded by py-amqp.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812
from struct import pack
from typing import TYPE_CHECKING, Any

from amqp.exceptions import FrameSyntaxError
from amqp.serialization import dumps

from consumers.transports.amqp_frames import BODY, END, HEADER, METHOD, OVERHEAD
from consumers.transports.amqp_properties import PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Mapping

_BASIC, _PUBLISH, _MANDATORY = 60, 40, 1
_END = bytes((END,))
#: What a header frame holds beside the properties.
_HEADER_FIXED = 12
_KNOWN_ROUTES = 1024


class UnencodableError(Exception):
    """The message cannot be put into frames; ``reason`` is ``unencodable`` or ``headers-too-large``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def encode_properties(properties: Mapping[str, Any]) -> bytes:
    """Return the flags and the values of basic properties, as they stand in a header frame.

    ``None`` counts as not set. Raises ``UnencodableError`` for values and names AMQP does not know.
    """
    flags, layout, values = 0, "", []
    for name, (flag, kind) in PROPERTIES.items():
        value = properties.get(name)
        if value is None or (kind == "F" and not value):
            continue
        flags |= flag
        layout += kind
        values.append(dict(value) if kind == "F" else value)
    try:
        unknown = properties.keys() - PROPERTIES.keys()
        if unknown:
            raise UnencodableError("unencodable", f"unknown properties: {sorted(unknown)}")
        encoded: bytes = pack(">H", flags) + dumps(layout, values)
    except (StructError, FrameSyntaxError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        # the exception's text may hold the value
        raise UnencodableError("unencodable", type(exc).__name__) from None
    return encoded


class FrameEncoder:
    """Turns messages into frames for one channel; mandatory is always set."""

    def __init__(self, channel_id: int, frame_max: int) -> None:
        self._channel_id = channel_id
        self._chunk = frame_max - OVERHEAD
        self._routes: dict[tuple[str, str], bytes] = {}

    def encode(self, exchange: str, routing_key: str, properties: Mapping[str, Any], body: bytes) -> bytes:
        """Return the method, header and body frames of one publish; raises ``UnencodableError``."""
        route = self._routes.get((exchange, routing_key)) or self._route(exchange, routing_key)
        encoded = encode_properties(properties)
        if len(encoded) + _HEADER_FIXED > self._chunk:
            raise UnencodableError("headers-too-large", f"{len(encoded)} bytes of properties")
        size = len(body)
        header = pack(">BHIHHQ", HEADER, self._channel_id, len(encoded) + _HEADER_FIXED, _BASIC, 0, size)
        if not size:
            return b"".join((route, header, encoded, _END))
        if size <= self._chunk:
            opening = pack(">BHI", BODY, self._channel_id, size)
            return b"".join((route, header, encoded, _END, opening, body, _END))
        return b"".join((route, header, encoded, _END, *self._pieces(body)))

    def _route(self, exchange: str, routing_key: str) -> bytes:
        try:
            payload: bytes = pack(">HH", _BASIC, _PUBLISH) + dumps(
                "Bssbb", (0, exchange, routing_key, _MANDATORY, 0)
            )
        except (StructError, TypeError, ValueError) as exc:
            raise UnencodableError("unencodable", type(exc).__name__) from None
        frame: bytes = pack(">BHI", METHOD, self._channel_id, len(payload)) + payload + _END
        if len(self._routes) >= _KNOWN_ROUTES:
            self._routes.clear()
        self._routes[exchange, routing_key] = frame
        return frame

    def _pieces(self, body: bytes) -> list[bytes]:
        parts: list[bytes] = []
        for start in range(0, len(body), self._chunk):
            piece = body[start : start + self._chunk]
            parts += (pack(">BHI", BODY, self._channel_id, len(piece)), piece, _END)
        return parts
