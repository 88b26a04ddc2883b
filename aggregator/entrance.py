"""The way in: known messages told from new ones, new ones into groups, complete groups to the outbox.

Used by :class:`aggregator.pipeline.Pipeline` alone, under its lock.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from aggregator.delivery import Aggregate
from aggregator.errors import MessageRefusedError
from aggregator.ledger import Recall

if TYPE_CHECKING:
    from aggregator.buffer import Buffer
    from aggregator.delivery import Delivery, Link
    from aggregator.intake import Intake, Sorted
    from aggregator.ledger import Ledger
    from aggregator.metrics import RouteMetrics
    from aggregator.outbox import Outbox
    from aggregator.ports import DeadLetterPort, Refused
    from aggregator.settlement import Settler

#: What pressure frees at once, as a share of all that may be held: one message at a time would
#: make every request a request of one.
RELIEF = 8
#: So long after a link has come or gone, the others may still be on their way: what the broker sends
#: over the first is not yet all that it will send.
CONNECTING_SECONDS = 2.0


class Entrance:
    """Takes what was sorted. ``links``: how many messages the broker sends over each before one is settled.

    ``capacity``: over how many in all, once they are open; ``linked``: when one came or went (monotonic
    seconds). ``most_bytes``: bodies in memory, before nothing more is read. ``aggregated``: a complete
    group becomes one item, not one for each message. ``partitioned``: each link has keys of its own, so
    that one which is full waits for itself alone.
    """

    def __init__(
        self,
        *,
        intake: Intake,
        ledger: Ledger,
        buffer: Buffer,
        outbox: Outbox,
        settler: Settler,
        dead_letters: DeadLetterPort,
        metrics: RouteMetrics,
        most_bytes: int,
        aggregated: bool,
        partitioned: bool = False,
    ) -> None:
        self._intake = intake
        self._ledger = ledger
        self._buffer = buffer
        self._outbox = outbox
        self._settler = settler
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._most_bytes = most_bytes
        self._aggregated = aggregated
        self._partitioned = partitioned
        self.links: dict[Link, int] = {}
        self.capacity = 0
        self.linked = -inf

    @property
    def has_room(self) -> bool:
        """Whether more may be read."""
        return self.held_bytes < self._most_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies in open groups, on their way, and refused."""
        return self._buffer.bytes + self._outbox.bytes + self._dead_letters.bytes

    def enter(self, result: Sorted, now: float) -> tuple[list[Delivery], list[Refused]]:
        """Put members and sentinels into the buffer; return settled ones that came again, and refused."""
        buffer = self._buffer
        again: list[Delivery] = []
        refused: list[Refused] = []
        buffer.advance(now)
        for delivery, key, sentinel, expected in result.entries:
            # what comes for the first time is new
            if not (self._ledger.enter(delivery) or self._is_new(delivery, key, again)):
                continue
            try:
                if sentinel:
                    buffer.add_sentinel(delivery, key, expected, now)
                else:
                    buffer.add(delivery, key, now, expected)
            except MessageRefusedError as exc:
                refused.append(self._intake.refusal(delivery, exc))
        for delivery, key, expected, delivered in result.suspects:
            if self._is_new(delivery, key, again):
                try:
                    buffer.isolate(delivery, key, now, expected, delivered)
                except MessageRefusedError as exc:
                    refused.append(self._intake.refusal(delivery, exc))
        refused += (entry for entry in result.refused if self._is_new(entry.delivery, None, again))
        self._discard(result, again)
        if self._settler.lingers:
            for key in (*(e[1] for e in result.entries if not e[2]), *(s[1] for s in result.suspects)):
                self._settler.hurry(key)
        return again, refused

    def _discard(self, result: Sorted, again: list[Delivery]) -> None:
        """Leave of what is not to be written that which is settled by that."""
        if not result.screened:
            return
        result.screened = [each for each in result.screened if self._is_new(each[0], None, again)]
        self._ledger.settle(delivery for delivery, _ in result.screened)

    def _is_new(self, delivery: Delivery, key: str | None, again: list[Delivery]) -> bool:
        """Ask the ledger. A copy of what is held takes its place; one of what is settled is acked again."""
        recall, old = self._ledger.receive(delivery)
        if recall is Recall.NEW:
            return True
        if recall is Recall.HELD and old is not None:
            if not self._buffer.replace(old, delivery, key):
                return True
            if delivery.follower is not old:
                self._metrics.settled("given_back", 1)  # the old copy: its link is lost
            return False
        if recall is Recall.SETTLED:
            again.append(delivery)
        return False

    def relieve(self, now: float) -> None:
        """Complete the oldest groups where waiting longer would be waiting for ever."""
        if self.relief_at() <= now:
            full = self._full_link()
            capacity = self.links[full] if full else sum(self.links.values())
            self._buffer.relieve(max(1, capacity // RELIEF), 0, now, full)
        if self._buffer.bytes and not self.has_room:
            enough = max(1, self._most_bytes // RELIEF)
            if self._outbox.bytes < enough:
                self._buffer.relieve(0, min(enough, self._buffer.bytes), now)

    def relief_at(self) -> float:
        """Return since when all that the broker will send is held, and nothing is under way; ``inf`` else."""
        if self._full_link() is not None:
            return -inf
        held, capacity = self._buffer.held, sum(self.links.values())
        if not held or self._outbox.pending or not held + self._dead_letters.pending >= capacity > 0:
            return inf
        return -inf if capacity >= self.capacity else self.linked + CONNECTING_SECONDS

    def _full_link(self) -> Link | None:
        """Return a link of a partition over which nothing more comes unless one of its groups goes."""
        if self._partitioned and not self._outbox.pending and self._buffer.held:
            for link, prefetch in self.links.items():
                if link.unsettled >= prefetch and not link.unsent:
                    return link
        return None

    def dispatch(self, now: float) -> None:
        """Make items of the batches that are complete and hand them to the outbox."""
        for batch in self._buffer.take():
            age = now - batch.opened
            self._metrics.batch(batch.trigger.value, batch.complete, len(batch.deliveries), batch.bytes, age)
            members = batch.deliveries
            batch.remaining = len(members)
            batch.delivered = batch.delivered or self._intake.suspicion(members)
            for delivery in members:
                delivery.batch = batch
            self._ledger.depart(members)
            self._ledger.depart(batch.controls)
            if members:
                whole = self._aggregated
                items = [Aggregate(members, batch, bodies=batch.bytes)] if whole else members
                if batch.delivered:
                    company = self._intake.company(batch.delivered)
                    self._outbox.isolate(items[0], batch.delivered, now, company)
                else:
                    self._outbox.offer(items, batch.bytes, now)
            else:
                self._settler.finish([batch])
