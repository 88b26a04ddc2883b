"""What a dead letter looks like, and how it becomes the original again.

A dead letter has the original's body, properties and headers, and these headers beside:

=================================  ==========================================================
``x-aggregator-reason``            a constant word: ``bad-json``, ``mapping``, …
``x-aggregator-detail``            for people, at most 1,000 characters; absent if empty
``x-aggregator-error-type``        the sink's name of the error; absent if there is none
``x-aggregator-status``            the sink's status, a number; absent if there is none
``x-aggregator-attempts``          how often it was sent to the sink
``x-aggregator-first``, ``-last``  first and last attempt, ISO 8601 in UTC; absent if unknown
``x-aggregator-exchange``          where it was published to; empty: the default exchange
``x-aggregator-routing-key``       with which routing key
``x-aggregator-queue``             the queue it was taken from
``x-aggregator-cut``               names of original headers that did not fit, if any
``x-aggregator-retries``           steps through retry queues, this one included; absent before the first
=================================  ==========================================================

What would do harm in a dead-letter queue is moved into a header of that prefix: ``expiration`` (it
would vanish), ``delivery_mode`` (always persistent here; 0: was not set), ``user_id`` (the broker
refuses another user's), the headers ``CC`` and ``BCC`` (the broker would send copies back),
``x-delivery-count`` (it would be refused for it again). A message that already was a dead letter
carries the headers of its latest refusal only.

What waits in a retry queue looks the same. When it has come back and is refused again, its attempts are
added up, and what tells of its first journey stays: the broker brings it back by the default exchange.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from amqp.serialization import dumps

from aggregator.retrying import RETRIES
from consumers.publisher import Outgoing
from consumers.transports.amqp_properties import PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.delivery import Delivery
    from aggregator.ports import Refused

#: All headers that a dead letter has beside the original's begin with this.
PREFIX: Final = "x-aggregator-"

_PERSISTENT: Final = 2
_DETAIL_CHARS, _TEXT_CHARS, _SHORT_BYTES = 1_000, 4_000, 255
_INT_LIMIT: Final = 2**63
#: Bytes of a frame that are left to the other properties (14 of at most 256 bytes) and its edges.
_RESERVED: Final = 4_096
_MOVED_PROPERTIES: Final = {"expiration": "expiration", "user_id": "user-id"}
_MOVED_HEADERS: Final = {"CC": "cc", "BCC": "bcc", "x-delivery-count": "delivery-count"}
#: Of the original, noted at its first refusal.
_JOURNEY: Final = tuple(
    PREFIX + name
    for name in (
        "exchange", "routing-key", "first", "delivery-mode",
        *_MOVED_PROPERTIES.values(), "cc", "bcc",
    )
)  # fmt: skip
_NOT_COPIED: Final = frozenset({"headers", "delivery_mode", *_MOVED_PROPERTIES})


@dataclass(frozen=True, slots=True)
class Original:
    """Where a dead letter came from, and its properties as they were (``headers`` among them)."""

    queue: str
    exchange: str
    routing_key: str
    properties: dict[str, Any]


def dead_letter(
    refused: Refused,
    *,
    queue: str,
    exchange: str,
    routing_key: str,
    frame_max: int,
    plain: bool = False,
    retries: int | None = None,
) -> Outgoing:
    """Return the message for the dead-letter exchange, or for a retry queue: its step is ``retries``.

    ``plain``: the original's headers and properties are reduced to what every transport can take and
    what fits in a frame of ``frame_max`` bytes; used when the faithful message was not encodable.
    """
    own = _own_headers(refused, queue)
    properties = _kept_properties(refused.delivery)
    headers = _kept_headers(refused.delivery)
    moved = {PREFIX + _MOVED_HEADERS[name]: headers.pop(name) for name in _MOVED_HEADERS if name in headers}
    was = {name: value for name, value in headers.items() if name.startswith(PREFIX)}
    headers = {name: value for name, value in headers.items() if not name.startswith(PREFIX)}
    headers.update(moved)
    if done := was.get(RETRIES):
        own[RETRIES] = done
        _keep_journey(own, was)
    if retries is not None:
        own[RETRIES] = retries
    if plain:
        properties = _plain_properties(properties)
        headers = _fitting(headers, own, frame_max - _RESERVED)
    properties.update(headers={**headers, **own}, delivery_mode=_PERSISTENT)
    return Outgoing(exchange, routing_key, bytes(refused.delivery.body), properties)


def original(properties: Mapping[str, Any]) -> Original:
    """Undo :func:`dead_letter`: ``properties`` of a dead letter, ``headers`` among them.

    What only its first journey was about is left out: ``user_id``, ``CC``, ``BCC`` and the delivery
    count. Headers that were cut are lost.
    """
    dead = properties.get("headers") or {}
    kept = {
        name: value for name, value in properties.items() if name in PROPERTIES and name not in _NOT_COPIED
    }
    headers = {name: value for name, value in dead.items() if not name.startswith(PREFIX)}
    if headers:
        kept["headers"] = headers
    if expiration := dead.get(PREFIX + "expiration"):
        kept["expiration"] = expiration
    mode = dead.get(PREFIX + "delivery-mode", _PERSISTENT)
    if mode:
        kept["delivery_mode"] = mode
    queue, exchange, routing_key = (
        str(dead.get(PREFIX + name, "")) for name in ("queue", "exchange", "routing-key")
    )
    return Original(queue, exchange, routing_key, kept)


def _keep_journey(own: dict[str, Any], was: Mapping[str, Any]) -> None:
    """Take over what an earlier refusal noted of the original, before the retry queues."""
    own.update({name: was[name] for name in _JOURNEY if isinstance(was.get(name), str | int | list)})
    before = was.get(PREFIX + "attempts")
    if isinstance(before, int):
        own[PREFIX + "attempts"] += before


def _own_headers(refused: Refused, queue: str) -> dict[str, Any]:
    delivery = refused.delivery
    named = {
        "reason": _clean(refused.reason, _DETAIL_CHARS),
        "detail": _clean(refused.detail, _DETAIL_CHARS) or None,
        "error-type": _clean(refused.error_type, _DETAIL_CHARS) or None,
        "status": refused.status,
        "attempts": refused.attempts,
        "first": _iso(refused.first),
        "last": _iso(refused.last),
        "exchange": _clean(delivery.exchange, _DETAIL_CHARS),
        "routing-key": _clean(delivery.routing_key, _DETAIL_CHARS),
        "queue": queue,
    }
    properties = _readable_properties(delivery)
    named.update({header: properties.get(name) for name, header in _MOVED_PROPERTIES.items()})
    mode = properties.get("delivery_mode")
    if mode != _PERSISTENT:
        named["delivery-mode"] = mode or 0
    return {PREFIX + name: value for name, value in named.items() if value is not None}


def _kept_properties(delivery: Delivery) -> dict[str, Any]:
    readable = _readable_properties(delivery)
    return {
        name: value
        for name, value in readable.items()
        if name in PROPERTIES and name not in _NOT_COPIED and value is not None
    }


def _readable_properties(delivery: Delivery) -> Mapping[str, Any]:
    try:
        return delivery.properties
    except Exception:  # noqa: BLE001  decoded on first use: what cannot be read must not block the rest
        return {}


def _kept_headers(delivery: Delivery) -> dict[str, Any]:
    try:
        return {str(name): value for name, value in delivery.headers.items()}
    except Exception:  # noqa: BLE001  as above
        return {}


def _fitting(headers: Mapping[str, Any], own: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """Return what fits of the headers, the small ones first; name the others in ``cut``."""
    sized = []
    for name, value in headers.items():
        short = _short(name)
        plain = _plain(value)
        sized.append((len(dumps("F", [{short: plain}])), short, plain))
    left = budget - len(dumps("F", [dict(own)])) - _DETAIL_CHARS * 4
    kept: dict[str, Any] = {}
    cut = []
    for size, name, value in sorted(sized, key=lambda entry: entry[0]):
        left -= size
        if left >= 0:
            kept[name] = value
        else:
            cut.append(name)
    if cut:
        kept[PREFIX + "cut"] = _clean(", ".join(sorted(cut)), _DETAIL_CHARS)
    return kept


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and -_INT_LIMIT <= value < _INT_LIMIT:
        return value
    try:
        return _clean(value if isinstance(value, str) else repr(value), _TEXT_CHARS)
    except Exception:  # noqa: BLE001  a foreign repr, or too deep
        return f"<{type(value).__name__}>"


def _plain_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: _short(value) for name, value in properties.items() if isinstance(value, str)}
    numbers = {"priority": 256, "timestamp": 2**64}
    for name, limit in numbers.items():
        value = properties.get(name)
        if isinstance(value, int) and 0 <= value < limit:
            kept[name] = value  # type: ignore[assignment]
    return kept


def _clean(text: str, chars: int) -> str:
    return text[:chars].encode("utf-8", "replace").decode()


def _short(text: str) -> str:
    return text.encode("utf-8", "replace")[:_SHORT_BYTES].decode("utf-8", "ignore")


def _iso(seconds: float) -> str | None:
    try:
        moment = datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
