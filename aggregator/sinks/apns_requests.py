"""A notification as APNs' headers: made and checked once, for all devices that get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from aggregator.push import Notification

LARGEST, LARGEST_VOIP = 4096, 5120
LONGEST_COLLAPSE_ID = 64
PUSH_TYPES = (
    "alert", "background", "complication", "controls", "fileprovider", "liveactivity", "location", "mdm",
    "pushtotalk", "voip", "widgets",
)  # fmt: skip
_PRIORITIES = (1, 5, 10)


class Prepared(NamedTuple):
    """What all pushes of a notification share: lines of the header, and the body."""

    lines: tuple[bytes, ...]
    body: bytes


def prepare(notification: Notification, topic: str) -> Prepared | Verdict:
    """Return what is the same for all devices, or why it cannot be sent. ``topic``: the sink's own."""
    refused = _fault(notification)
    if refused:
        return Verdict(Fate.DEAD_LETTER, *refused)
    push_type = notification.push_type or "alert"
    priority = notification.priority or (5 if push_type == "background" else None)
    lines = [
        b"content-type: application/json",
        b"apns-push-type: " + push_type.encode(),
        b"apns-topic: " + (notification.topic or topic).encode(),
        b"user-agent:",
        b"accept:",
    ]
    if priority is not None:
        lines.append(b"apns-priority: %d" % priority)
    if notification.expiration is not None:
        lines.append(b"apns-expiration: %d" % notification.expiration)
    if notification.collapse_id:
        lines.append(b"apns-collapse-id: " + notification.collapse_id.encode())
    return Prepared(tuple(lines), notification.payload)


def _fault(notification: Notification) -> tuple[str, str] | None:
    """Return the reason and a sentence for what APNs would refuse, None for nothing."""
    payload, push_type, priority = (
        notification.payload,
        notification.push_type or "alert",
        notification.priority,
    )
    limit = LARGEST_VOIP if push_type == "voip" else LARGEST
    words = _header_fault(notification.topic) or _header_fault(notification.collapse_id)
    if words:
        return "bad-header", f"topic or collapse_id {words}"
    if push_type not in PUSH_TYPES:
        return "InvalidPushType", f"push_type is none of {', '.join(PUSH_TYPES)}"
    if len(payload) > limit:
        return "payload-too-large", f"the payload has {len(payload)} bytes; APNs takes {limit}"
    if (length := len(notification.collapse_id.encode())) > LONGEST_COLLAPSE_ID:
        return "bad-collapse-id", f"collapse_id has {length} bytes; APNs takes {LONGEST_COLLAPSE_ID}"
    if priority is not None and priority not in _PRIORITIES:
        return "BadPriority", "priority is none of 1, 5, 10"
    words = _background_fault(payload, priority) if push_type == "background" else ""
    return ("bad-background-push", words) if words else None


def _header_fault(text: str) -> str:
    if text.isascii() and text.isprintable():
        return ""
    if any(ord(c) < ord(" ") or ord(c) == 0x7F for c in text):  # noqa: PLR2004 - DEL
        return "hold control characters"
    return "hold half a character" if any("\ud800" <= c <= "\udfff" for c in text) else ""


def _background_fault(payload: bytes, priority: int | None) -> str:
    if priority == 10:  # noqa: PLR2004 - APNs' highest
        return "a background push has priority 5 or 1"
    try:
        aps = orjson.loads(payload)["aps"]
        silent = aps.get("content-available") == 1
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        silent, aps = False, {}
    if not silent:
        return "a background push needs aps.content-available = 1"
    loud = [name for name in ("alert", "badge", "sound") if name in aps]
    return f"a background push has no aps.{loud[0]}" if loud else ""
