"""Pushes for tests: items with an address, as a route makes them."""

from __future__ import annotations

from collections import Counter

from aggregator.push import Address, Notification
from aggregator.testing.memory import MemoryDelivery

ALERT = b'{"aps":{"alert":"3 new letters"}}'
LETTER = b'{"notification":{"title":"3 new letters"}}'


class PushItem(MemoryDelivery):
    """A delivery that is to be pushed."""

    def __init__(self, address):
        super().__init__(b"")
        self.address = address
        self.document = address.notification.payload
        self.id = f"{address.notification.campaign}/{address.device}"


def token(number):
    return f"{number:064x}"


def address(number=0, notification=None, *, platform="apns", app="", token_of=token):
    notification = notification or note(platform)
    return Address(token_of(number), f"d{number}", platform, app, 0.0, number, notification)


def note(platform="apns", **more):
    return Notification(payload=ALERT if platform == "apns" else LETTER, campaign="c1", **more)


def pushes(count, *, platform="apns", app="", start=0, **more):
    notification = note(platform, **more)
    return [
        PushItem(address(number, notification, platform=platform, app=app))
        for number in range(start, start + count)
    ]


def told(sink, items):
    """Write; return how many items had which fate and reason."""
    verdicts = sink.write(items)
    if verdicts is None:
        return {"written": len(items)}
    assert len(verdicts) == len(items)
    return dict(Counter(f"{verdict.fate.value} {verdict.reason}".strip() for verdict in verdicts))
