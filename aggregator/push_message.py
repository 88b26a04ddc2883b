"""A push message as it comes: one notification and its recipients, strictly read. Pure.

::

    {"campaign": "c1", "platform": "apns", "app": "news",
     "notification": {"payload": {…}, "collapse_id": "…", "priority": 10, "push_type": "alert",
                      "topic": "…", "ttl": 3600},
     "not_before": 1700000000, "not_after": 1700040000, "expires": 1700600000,
     "next_window": [[1700080000, 1700120000]],
     "recipients": [["device", "token", 1690000000], …]}

For a single device ``"device"``, ``"token"`` and ``"registered"`` stand in the place of ``recipients``.
Further fields are the sender's own; in ``notification`` there are none. What is wrong is said by the
name of its field, never by its value.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import MessageRefusedError
from aggregator.push import Address, Notification

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.clock import Clock
    from aggregator.delivery import Item

PLATFORMS = ("apns", "fcm")
#: Bytes of a collapse id that APNs takes.
COLLAPSE_BYTES = 64
_FIELDS = frozenset({"payload", "collapse_id", "priority", "push_type", "topic", "ttl", "expiration"})
_MOST_SECONDS = 2.0**40


class PushMessage(NamedTuple):
    """``recipients``: of each device, token, and maybe when it was registered; not looked at yet."""

    platform: str
    app: str
    notification: Notification
    recipients: list[Any]


def read_push(message: Any, now: float) -> PushMessage:
    """Return what a parsed message says; ``now`` in unix seconds, for a ``ttl`` counts from it.

    Raises ``MessageRefusedError`` (``bad-push``).
    """
    if type(message) is not dict:
        raise _bad("the message is no object")
    campaign = _text(message, "campaign", needed=True)
    platform = message.get("platform")
    if platform not in PLATFORMS:
        raise _bad(f"platform is none of {', '.join(PLATFORMS)}")
    return PushMessage(
        platform, _text(message, "app"), _notification(message, campaign, now), recipients_of(message)
    )


def address_of(item: Item, clock: Clock = SYSTEM_CLOCK) -> Address:
    """Return to whom an item goes that is a push message itself, for one device.

    Without a campaign the item's id stands for it: pushes of two messages never have the same ``apns-id``.
    Raises ``MessageRefusedError``: ``bad-push``, or ``outside-window`` where it may not be sent now.
    """
    message, now = item.json(), clock.time()
    if type(message) is dict and not message.get("campaign"):
        message = {**message, "campaign": item.id}
    platform, app, notification, recipients = read_push(message, now)
    if len(recipients) != 1:
        raise _bad(f"it has {len(recipients)} recipients; set aggregate = push")
    if fault := fault_of(recipients[0]):
        raise _bad(f"its recipient {fault}")
    if notification.due(now) != now:
        raise MessageRefusedError(
            "outside-window", "set aggregate = push, and put it into a tube to have it held"
        )
    device, token, registered = (*recipients[0], None)[:3]
    return Address(token, str(device), platform, app, registered or 0, 0, notification)


def recipients_of(message: Mapping[str, Any]) -> list[Any]:
    """Return the recipients of a message, one where it names a single device.

    Raises ``MessageRefusedError`` (``bad-push``).
    """
    recipients = message.get("recipients")
    if recipients is None:
        if "token" not in message:
            raise _bad("recipients are missing, or device and token")
        return [[message.get("device") or "", message["token"], message.get("registered")]]
    if type(recipients) is not list or not recipients:
        raise _bad("recipients are no list, or an empty one")
    if "token" in message:
        raise _bad("there are recipients and a token; one of the two is needed")
    return recipients


def fault_of(recipient: Any) -> str:
    """Say what is wrong with a recipient; empty where nothing is."""
    if type(recipient) not in {list, tuple} or not 2 <= len(recipient) <= 3:  # noqa: PLR2004 - as written above
        return "is no list of device, token and maybe a time"
    device, token, registered = (*recipient, None)[:3]
    if type(device) not in {str, int}:
        return "has a device that is neither text nor a number"
    if type(token) is not str or not token:
        return "has a token that is no text, or empty"
    if registered is not None and not _is_time(registered):
        return "was registered at what is no time in unix seconds"
    return ""


def _notification(message: Mapping[str, Any], campaign: str, now: float) -> Notification:
    given = message.get("notification")
    if type(given) is not dict:
        raise _bad("notification is no object")
    if unknown := given.keys() - _FIELDS:
        raise _bad(f"notification has {len(unknown)} unknown fields; known are {', '.join(sorted(_FIELDS))}")
    payload = given.get("payload")
    if type(payload) is not dict or not payload:
        raise _bad("notification.payload is no object, or an empty one")
    try:
        document = orjson.dumps(payload)
    except TypeError:  # its words name what is in it
        document = b""
    if not document:
        raise _bad("notification.payload is no JSON")
    collapse_id = _text(given, "collapse_id")
    if len(collapse_id.encode("utf-8", "surrogatepass")) > COLLAPSE_BYTES:
        raise _bad(f"collapse_id has more than {COLLAPSE_BYTES} bytes")
    opens, shuts, later, expires = _window(message)
    return Notification(
        payload=document,
        campaign=campaign,
        topic=_text(given, "topic"),
        collapse_id=collapse_id,
        push_type=_text(given, "push_type"),
        priority=_priority(given),
        expiration=_expiration(given, now),
        opens=opens,
        shuts=shuts,
        later=later,
        expires=expires,
    )


def _window(message: Mapping[str, Any]) -> tuple[float, float, tuple[tuple[float, float], ...], float]:
    not_before, not_after = _time(message, "not_before"), _time(message, "not_after")
    expires = _time(message, "expires")
    if not_before is not None and not_after is not None and not_after <= not_before:
        raise _bad("not_after is not later than not_before")
    opens = -inf if not_before is None else not_before
    shuts = inf if not_after is None else not_after
    if type(message.get("next_window")) is list:
        later = _windows(message["next_window"])
    else:
        reopens = _time(message, "next_window")
        if reopens is None and expires is not None:
            reopens = not_before
        later = () if reopens is None else ((reopens, reopens + shuts - opens),)
    return opens, shuts, later, inf if expires is None else expires


def _windows(given: list[Any]) -> tuple[tuple[float, float], ...]:
    for window in given:
        if type(window) is not list or len(window) != 2 or not all(map(_is_time, window)):  # noqa: PLR2004
            raise _bad("next_window holds what is no pair of seconds, when it opens and when it shuts")
    windows = tuple((opens, shuts) for opens, shuts in given)
    moments = [moment for window in windows for moment in window]
    if moments != sorted(set(moments)):
        raise _bad("next_window: its windows are not in order")
    return windows


def _priority(given: Mapping[str, Any]) -> int | None:
    priority = given.get("priority")
    if priority is None:
        return None
    if type(priority) is not int or not 0 <= priority <= 10:  # noqa: PLR2004 - APNs' greatest
        raise _bad("priority is no whole number from 0 to 10")
    return priority


def _expiration(given: Mapping[str, Any], now: float) -> int | None:
    ttl, expiration = _time(given, "ttl"), _time(given, "expiration")
    if ttl is not None and expiration is not None:
        raise _bad("there are ttl and expiration; one of the two is needed")
    if ttl is not None:
        return int(now + ttl) if ttl else 0
    return None if expiration is None else int(expiration)


def _text(given: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    text = given.get(name)
    if text is None and not needed:
        return ""
    if type(text) is not str or (needed and not text):
        raise _bad(f"{name} is no text{', or empty' if needed else ''}")
    return text


def _time(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if not _is_time(value):
        raise _bad(f"{name} is no number of seconds")
    return value  # type: ignore[no-any-return]


def _is_time(value: Any) -> bool:
    return type(value) in {int, float} and isfinite(value) and 0 <= value < _MOST_SECONDS


def _bad(detail: str) -> MessageRefusedError:
    return MessageRefusedError("bad-push", detail)
