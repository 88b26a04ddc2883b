"""What is settled: which messages were seen before, and which tags may be acked.

:class:`Ledger` knows messages across links, :class:`AckWindow` the tags of one link. Both are pure;
the ledger's owner holds a lock around every call, a window belongs to its link's thread.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aggregator.delivery import Delivery

HELD, IN_FLIGHT, SETTLED = range(3)

_UNKNOWN: Any = object()


class Recall(Enum):
    """What the ledger knows of a delivery that has just come in."""

    NEW = "new"
    HELD = "held"
    """An older copy is in an open group: this one takes its place, for its link is lost or will be."""
    ATTACHED = "attached"
    """An older copy is on its way to the sink: this one settles by that verdict."""
    SETTLED = "settled"
    """It was settled and the ack was lost: ack it again."""


class Ledger:
    """Remembers messages whose publisher gave an id, by a fingerprint of id and body.

    A delivery counts as one seen before only if the broker marks it as redelivered and its
    fingerprint is the same; a publisher that sends the same thing twice has sent two messages.
    At least the latest ``remember`` settled ones are kept, and at most twice as many; that has to
    exceed what the broker may have sent and not seen acked, that is the sum of all prefetches.
    """

    def __init__(self, remember: int = 10_000) -> None:
        self._known: dict[int, Delivery] = {}
        self._settled: set[int] = set()
        self._settled_before: set[int] = set()
        self.remember = remember

    def __len__(self) -> int:
        """Messages known, settled ones included."""
        return len(self._known) + len(self._settled | self._settled_before)

    @property
    def unsettled(self) -> int:
        """Messages known that are not settled."""
        return len(self._known)

    def receive(self, delivery: Delivery) -> tuple[Recall, Delivery | None]:
        """Enter a delivery; return what is known of it, and the older copy where one is held."""
        fingerprint = delivery.fingerprint
        if not fingerprint:
            return Recall.NEW, None
        known = self._known.get(fingerprint) if delivery.redelivered else None
        if known is None:
            if delivery.redelivered and (fingerprint in self._settled or fingerprint in self._settled_before):
                return Recall.SETTLED, None
            self._known[fingerprint] = delivery
            return Recall.NEW, None
        if known.state == HELD:
            self._known[fingerprint] = delivery
            return Recall.HELD, known
        delivery.state = IN_FLIGHT
        delivery.follower, known.follower = known.follower, delivery
        return Recall.ATTACHED, None

    @staticmethod
    def depart(deliveries: Iterable[Delivery]) -> None:
        """Their batch is complete: from now on a redelivery waits for the verdict."""
        for delivery in deliveries:
            delivery.state = IN_FLIGHT

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """Remember as settled: a redelivery is acked and not written again."""
        known, settled = self._known, self._settled
        for delivery in deliveries:
            delivery.state = SETTLED
            fingerprint = delivery.fingerprint
            if fingerprint and known.get(fingerprint) is delivery:
                del known[fingerprint]
                settled.add(fingerprint)
        if len(settled) >= self.remember:
            # forgotten a generation at a time: an order of all would cost each message its entry
            self._settled_before, self._settled = settled, set()

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """They go back to the broker unsettled: what comes again is new."""
        for delivery in deliveries:
            if delivery.fingerprint and self._known.get(delivery.fingerprint) is delivery:
                del self._known[delivery.fingerprint]

    def pass_on(self, old: Delivery, heir: Delivery) -> None:
        """Know a message by another copy of it: the one that was known is gone."""
        if self._known.get(old.fingerprint) is old:
            self._known[old.fingerprint] = heir


def with_followers(deliveries: Iterable[Delivery]) -> Iterator[Delivery]:
    """Yield deliveries, each with the redelivered copies that were attached to it."""
    for delivery in deliveries:
        yield delivery
        follower = delivery.follower
        while follower is not None:
            yield follower
            follower = follower.follower


class Acks(NamedTuple):
    """What to send: one ack with ``multiple`` up to ``upto``, unless None, and one for each single."""

    upto: Any | None
    singles: list[Any]


class AckWindow:
    """The unsettled tags of one link, in order of delivery.

    An ack with ``multiple`` settles every lower tag too: it is only used for tags below the oldest
    unsettled one. The tag acked is always one that is unsettled at the broker; another would
    close the channel.
    """

    def __init__(self, *, multiple: bool) -> None:
        self._multiple = multiple
        self._unsettled: dict[Any, None] = {}

    def __len__(self) -> int:
        """How many tags are unsettled."""
        return len(self._unsettled)

    def deliver(self, tag: Any) -> None:
        """Enter a tag that the broker has handed out."""
        self._unsettled[tag] = None

    def settle(self, tags: Sequence[Any]) -> Acks:
        """Settle tags for good; return the acks to send. Tags settled before are ignored."""
        unsettled = self._unsettled
        settled = [tag for tag in tags if unsettled.pop(tag, _UNKNOWN) is None]
        if not self._multiple or len(settled) < 2:  # noqa: PLR2004
            return Acks(None, settled)
        oldest = next(iter(unsettled), None)
        if oldest is None:
            return Acks(max(settled), [])
        below = [tag for tag in settled if tag < oldest]
        if len(below) == len(settled):
            return Acks(max(settled), [])
        return Acks(max(below, default=None), [tag for tag in settled if tag > oldest])

    def give_back(self, tags: Sequence[Any]) -> list[Any]:
        """Take tags out that go back to the broker; return those that were unsettled."""
        return [tag for tag in tags if self._unsettled.pop(tag, _UNKNOWN) is None]
