"""What keeps deliveries from being written though nothing is wrong with them: revoked, out of date, known.

A :class:`Screen` is one such reason. They are asked where it costs least, at receipt, and again each time
before a message goes to the sink: what was held, or is sent once more, may have been revoked meanwhile.
While none is active a read of the socket and a request cost one question each, a message nothing.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from aggregator.request import Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.delivery import Delivery, Item
    from aggregator.intake import Sorted
    from aggregator.sinks.base import Verdict

    #: A delivery that is not to be written, and the last word on it.
    Judged = tuple[Delivery, Verdict]


class Screen(Protocol):
    """One reason not to write deliveries.

    ``at_receipt``: it answers at once and from memory, so that the worker that has just read them may ask.
    """

    at_receipt: bool

    @property
    def active(self) -> bool:
        """Whether it may have anything to say at the moment. Asked once for many messages; any thread."""
        ...

    def judge(self, key: str | None, deliveries: Sequence[Delivery]) -> Sequence[Judged]:
        """Return those of one key that are not to be written, each with its last word, in their order.

        Called outside of the route's lock: by flush threads, several at once, and with
        ``at_receipt`` by workers. A flush thread may be blocked for as long as a request may take.
        Nothing of it is counted by the caller if it raises: a ``SinkError`` has the request sent later.
        """
        ...


class Screening:
    """All screens of a route; the first that has a word on a delivery has the last one."""

    def __init__(self, *screens: Screen) -> None:
        self._screens = screens
        self._at_receipt = tuple(screen for screen in screens if screen.at_receipt)

    def receive(self, result: Sorted) -> None:
        """Take out of a hand-over what is not to be written; of routes alone where nobody counts members.

        Where a group knows how many members it has, a member that is screened is one of them: it is taken
        out when the group is flushed.
        """
        active = [screen for screen in self._at_receipt if screen.active]
        if not active:
            return
        entries, suspects = result.entries, result.suspects
        judged = _ask(active, None, [entry[0] for entry in entries] + [each[0] for each in suspects])
        if judged:
            gone = {id(delivery) for delivery, _ in judged}
            result.entries = [entry for entry in entries if id(entry[0]) not in gone]
            result.suspects = [each for each in suspects if id(each[0]) not in gone]
            result.screened += judged

    def judge(self, items: Sequence[Item]) -> list[Final]:
        """Return the deliveries of these items that are not to be written; called by flush threads."""
        active = [screen for screen in self._screens if screen.active]
        if not active:
            return []
        return [
            Final(*judged)
            for key, alike in groupby(items, _key)
            for judged in _ask(active, key, [each for item in alike for each in item.deliveries])
        ]


def _ask(screens: Sequence[Screen], key: str | None, deliveries: Sequence[Delivery]) -> list[Judged]:
    judged: list[Judged] = []
    for screen in screens:
        found = screen.judge(key, deliveries)
        if found:
            judged += found
            gone = {id(delivery) for delivery, _ in found}
            deliveries = [each for each in deliveries if id(each) not in gone]
    return judged


def _key(item: Item) -> str | None:
    return item.batch.key
