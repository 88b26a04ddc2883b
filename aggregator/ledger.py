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
    """Remembers messages whose publisher gave an id: of each id the latest, by id and fingerprint.

    A delivery counts as one seen before only if the broker marks it as redelivered and it is the
    same as the latest of its id. One that is the same as an earlier one, with another between
    them, is written: it may be an update that says the same again. A publisher that sends the same
    thing twice has sent two messages.
    At least the latest ``remember`` settled ones are kept, and at most twice as many; that has to
    exceed what the broker may have sent and not seen acked, that is the sum of all prefetches.
    """

    def __init__(self, remember: int = 10_000) -> None:
        # by the hash of the id: the strings themselves would be the larger part
        self._latest: dict[int, Delivery] = {}
        self._settled: dict[int, int] = {}
        self._settled_before: dict[int, int] = {}
        self.remember = remember

    def __len__(self) -> int:
        """Messages known, settled ones included."""
        return len(self._latest) + len(self._settled | self._settled_before)

    @property
    def unsettled(self) -> int:
        """Messages known that are not settled."""
        return len(self._latest)

    def enter(self, delivery: Delivery) -> bool:
        """Enter a delivery that comes for the first time; False for any other: ask :meth:`receive`."""
        if delivery.redelivered:
            return False
        if delivery.fingerprint:
            self._latest[hash(delivery.id)] = delivery
        return True

    def receive(self, delivery: Delivery) -> tuple[Recall, Delivery | None]:
        """Enter a delivery; return what is known of it, and the older copy where one is held."""
        if self.enter(delivery) or not delivery.fingerprint:
            return Recall.NEW, None
        key = hash(delivery.id)
        known = self._latest.get(key)
        if known is None:
            if delivery.fingerprint == self._settled.get(key, self._settled_before.get(key)):
                return Recall.SETTLED, None
        elif known.fingerprint == delivery.fingerprint:
            return self._recall(key, known, delivery)
        self._latest[key] = delivery
        return Recall.NEW, None

    def _recall(self, key: int, known: Delivery, delivery: Delivery) -> tuple[Recall, Delivery | None]:
        if known.state == HELD:
            self._latest[key] = delivery
            return Recall.HELD, known
        delivery.state = IN_FLIGHT
        delivery.follower, known.follower = known.follower, delivery
        delivery.join(known)
        return Recall.ATTACHED, None

    @staticmethod
    def depart(deliveries: Iterable[Delivery]) -> None:
        """Their batch is complete: from now on a redelivery waits for the verdict."""
        for delivery in deliveries:
            delivery.state = IN_FLIGHT

    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """Remember as settled: a redelivery is acked and not written again."""
        latest, settled = self._latest, self._settled
        for delivery in deliveries:
            delivery.state = SETTLED
            if delivery.fingerprint:
                key = hash(delivery.id)
                if latest.get(key) is delivery:
                    del latest[key]
                    settled[key] = delivery.fingerprint
        if len(settled) >= self.remember:
            # forgotten a generation at a time: an order of all would cost each message its entry
            self._settled_before, self._settled = settled, {}

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """They go back to the broker unsettled: what comes again is new, and so is all of their ids."""
        for delivery in deliveries:
            if delivery.fingerprint:
                key = hash(delivery.id)
                if self._latest.get(key) is delivery:
                    del self._latest[key]
                    self._settled.pop(key, None)
                    self._settled_before.pop(key, None)

    def pass_on(self, old: Delivery, heir: Delivery) -> None:
        """Know a message by another copy of it: the one that was known is gone."""
        key = hash(old.id)
        if old.fingerprint and self._latest.get(key) is old:
            self._latest[key] = heir


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
    close the channel. ``waiting``: tags that were settled with ``hold``, and stand above an unsettled one.
    """

    def __init__(self, *, multiple: bool) -> None:
        self._multiple = multiple
        self._unsettled: dict[Any, None] = {}
        self.waiting: list[Any] = []

    def __len__(self) -> int:
        """How many tags the broker has not been sent an ack for."""
        return len(self._unsettled) + len(self.waiting)

    def deliver(self, tags: Iterable[Any]) -> None:
        """Enter tags in the order in which the broker handed them out."""
        self._unsettled.update(dict.fromkeys(tags))

    def settle(self, tags: Sequence[Any], *, hold: bool = False) -> Acks:
        """Settle tags for good; return the acks to send. Tags settled before are ignored.

        With ``hold`` those that would need an ack each wait for the next call: the unsettled ones below
        them may be settled by then, and one ack is enough for all.
        """
        unsettled = self._unsettled
        settled = [tag for tag in tags if unsettled.pop(tag, _UNKNOWN) is None]
        if self.waiting:
            settled, self.waiting = [*self.waiting, *settled], []
        oldest = next(iter(unsettled), None)
        above = [tag for tag in settled if tag > oldest] if self._multiple and oldest is not None else []
        if above:
            settled = [tag for tag in settled if tag < oldest]
            if hold:
                self.waiting, above = above, []
        if not self._multiple or len(settled) + len(above) < 2:  # noqa: PLR2004
            return Acks(None, [*settled, *above])
        return Acks(max(settled, default=None), above)

    def give_back(self, tags: Sequence[Any]) -> list[Any]:
        """Take tags out that go back to the broker; return those that were unsettled."""
        return [tag for tag in tags if self._unsettled.pop(tag, _UNKNOWN) is None]
