"""One push as a message of its own: JSON with the device, its token, and what it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import MessageRefusedError
from aggregator.push import Address, Notification

if TYPE_CHECKING:
    from aggregator.clock import Clock
    from aggregator.delivery import Item

_TEXTS = ("collapse_id", "push_type", "topic")


def address_of(item: Item, clock: Clock = SYSTEM_CLOCK) -> Address:
    """Return to whom an item goes that a route left as it is. Raises ``MessageRefusedError``."""
    message = item.json()
    if not isinstance(message, dict):
        raise _bad("it is no JSON object")
    platform = _text(message, "platform")
    if platform not in ("apns", "fcm"):
        raise _bad("platform is neither apns nor fcm")
    return Address(
        token=_text(message, "token"),
        device=_text(message, "device", needed=False),
        platform=platform,
        app=_text(message, "app", needed=False),
        registered=_number(message, "registered") or 0.0,
        index=0,
        notification=_notification(message, clock.time()),
    )


def _notification(message: dict[str, Any], now: float) -> Notification:
    given = message.get("notification")
    if not isinstance(given, dict):
        raise _bad("notification is no JSON object")
    payload = given.get("payload")
    if not isinstance(payload, dict):
        raise _bad("notification.payload is no JSON object")
    unknown = given.keys() - {"payload", "priority", "ttl", "expiration", *_TEXTS}
    if unknown:
        raise _bad(f"notification has an unknown field {min(unknown)[:40]!r}")
    expiration, ttl = _number(given, "expiration"), _number(given, "ttl")
    if expiration is not None and ttl is not None:
        raise _bad("notification has ttl and expiration; one of them is enough")
    priority = _number(given, "priority")
    return Notification(
        payload=orjson.dumps(payload),
        campaign=_text(message, "campaign", needed=False),
        priority=None if priority is None else int(priority),
        expiration=int(now + ttl)
        if ttl
        else None
        if expiration is None and ttl is None
        else int(expiration or 0),
        **{name: _text(given, name, needed=False) for name in _TEXTS},
    )


def _text(mapping: dict[str, Any], name: str, *, needed: bool = True) -> str:
    value = mapping.get(name)
    if isinstance(value, str) and (value or not needed):
        return value
    if value is None and not needed:
        return ""
    raise _bad(f"{name} is {'missing' if value is None else 'no text, or empty'}")


def _number(mapping: dict[str, Any], name: str) -> float | None:
    value = mapping.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _bad(f"{name} is no number from 0")
    return value


def _bad(problem: str) -> MessageRefusedError:
    return MessageRefusedError("bad-push", problem)
