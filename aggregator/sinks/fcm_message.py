"""A notification as FCM's JSON: made and checked once, each token spliced in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from aggregator.push import Notification

LARGEST = 4096
#: FCM keeps nothing for longer than four weeks.
_LONGEST_TTL = 2_419_200
_TARGETS = ("token", "topic", "condition")
_HIGH = 10


class Prepared(NamedTuple):
    """A request's body is ``before``, the token as JSON, ``after``."""

    before: bytes
    after: bytes

    def body(self, token: str) -> bytes:
        """Return the body for one device. Raises ``TypeError`` for half a character in the token."""
        return b"%b%b%b" % (self.before, orjson.dumps(token), self.after)


def prepare(notification: Notification, *, dry_run: bool, now: float) -> Prepared | Verdict:
    """Return what is the same for all devices, or why it cannot be sent. ``now``: unix seconds."""
    try:
        message = orjson.loads(notification.payload)
    except orjson.JSONDecodeError:
        message = None
    if not isinstance(message, dict):
        return _refuse("bad-push", "the payload is no JSON object")
    fault = _fault(message)
    if fault:
        return _refuse(*fault)
    android = _android(notification, message.get("android") or {}, now)
    if android:
        message["android"] = android
    rest = orjson.dumps(message)[1:]
    tail = (b"," if message else b"") + rest + b"}"
    start = b'{"validate_only":true,"message":{"token":' if dry_run else b'{"message":{"token":'
    return Prepared(start, tail)


def _fault(message: dict[str, Any]) -> tuple[str, str] | None:
    for target in _TARGETS:
        if target in message:
            return "bad-push", f"the payload has a {target}; the device's token goes there"
    android = message.get("android", {})
    if not isinstance(android, dict | None):
        return "bad-push", "android is no JSON object"
    for place, data in (("data", message.get("data")), ("android.data", (android or {}).get("data"))):
        if data is None:
            continue
        if not isinstance(data, dict):
            return "bad-data", f"{place} is no JSON object"
        for name, value in data.items():
            if not isinstance(value, str):
                return "bad-data", f"{place}.{name[:40]!r} is no text; FCM takes texts alone"
    size = len(orjson.dumps([message.get("notification"), message.get("data")]))
    if size > LARGEST:
        return "payload-too-large", f"notification and data have {size} bytes; FCM takes {LARGEST}"
    return None


def _android(notification: Notification, given: dict[str, Any], now: float) -> dict[str, Any]:
    """Return what Android is told; what the payload says itself has precedence."""
    told: dict[str, Any] = {}
    if notification.collapse_id:
        told["collapse_key"] = notification.collapse_id
    if notification.priority is not None:
        told["priority"] = "HIGH" if notification.priority >= _HIGH else "NORMAL"
    if notification.expiration is not None:
        left = int(notification.expiration - now) if notification.expiration else 0
        told["ttl"] = f"{min(max(left, 0), _LONGEST_TTL)}s"
    return told | given


def _refuse(reason: str, detail: str) -> Verdict:
    return Verdict(Fate.DEAD_LETTER, reason, detail)
