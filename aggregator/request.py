"""What is sent to a sink at once, and what is final of it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from aggregator.delivery import Item

FINAL = frozenset({Fate.WRITTEN, Fate.DUPLICATE, Fate.EXPIRED, Fate.REVOKED, Fate.REFUSED, Fate.DEAD_LETTER})


class Request:
    """Items that are sent together.

    ``size``: bytes of the items. ``since``: when the oldest became ready. ``left``: when this request
    left the outbox, ``sent``: when it went to the sink, both ``inf`` before. ``attempts``: how often
    they were sent before. ``first_failed``: when they failed first, None if they did not;
    ``last_failed``: at last. ``lone``: how often they failed while the sink took others.
    ``delivered``: above 0, they are isolated, and were delivered so often before. ``company``: how many
    items that are isolated too may be sent with them, themselves included.
    """

    __slots__ = (
        "attempts", "company", "delivered", "first_failed", "items", "last_failed", "left", "lone", "sent",
        "since", "size",
    )  # fmt: skip

    def __init__(self, items: list[Item], size: int, since: float) -> None:
        self.items = items
        self.size = size
        self.since = since
        self.left = self.sent = inf
        self.attempts = 0
        self.first_failed: float | None = None
        self.last_failed = inf
        self.lone = 0
        self.delivered = 0
        self.company = 1

    def like(self, other: Request) -> Request:
        """Take over the history of another; return itself."""
        self.attempts, self.lone, self.delivered = other.attempts, other.lone, other.delivered
        self.first_failed, self.last_failed = other.first_failed, other.last_failed
        return self


class Final(NamedTuple):
    """An item and the last word on it."""

    item: Item
    verdict: Verdict


class Outcome(NamedTuple):
    """What is final of a request: items written, and others with the word on each."""

    written: list[Item]
    others: list[Final]
