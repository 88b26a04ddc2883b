"""The last word on deliveries: acked, dead-lettered or given back, and their batches concluded.

Shares the route's lock. What is posted to links, the dead-letter queue, metrics and logs is posted
outside of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import groupby
from logging import INFO
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, cast

from aggregator.delivery import Settlement
from aggregator.ledger import with_followers
from aggregator.ports import Refused
from aggregator.request import Final, Outcome
from aggregator.sinks.base import WRITTEN, Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from threading import Condition

    from structlog.typing import FilteringBoundLogger

    from aggregator.breaker import Breaker
    from aggregator.clock import Clock
    from aggregator.delivery import Delivery, Item, Link
    from aggregator.group import Batch
    from aggregator.history import History
    from aggregator.ledger import Ledger
    from aggregator.metrics import RouteMetrics
    from aggregator.ports import DeadLetterPort
    from aggregator.request import Request

#: Seconds from the acks of a group's members to that of the sentinel that names its document. A broker
#: under load carries acks out late, and those of one connection after those of another.
SENTINEL_SECONDS = 5.0
#: The word on items that nobody can ack: their links are lost.
_GIVEN_BACK = Verdict(Fate.BLOCKED)
_batch_of = attrgetter("batch")
#: Of the words on the documents of one group the worst decides over its deliveries.
_BADNESS = {
    Fate.WRITTEN: 0,
    Fate.DUPLICATE: 1,
    Fate.EXPIRED: 2,
    Fate.REVOKED: 3,
    Fate.REFUSED: 4,
    Fate.DEAD_LETTER: 5,
    Fate.BLOCKED: 6,
}
#: Those that are acked, by their name in metrics.
_ENDS = {fate: fate.value for fate in (Fate.DUPLICATE, Fate.EXPIRED, Fate.REVOKED, Fate.REFUSED)}
#: What says something of the route's health: a dead token, or a time that is over, does not.
_HEALTHY = frozenset({"written", "duplicate"})


class Settler:
    """Settles what is final. ``stop`` is called with a reason when most messages are refused.

    ``aggregated``: items may hold several deliveries, and deliveries may stand in several items;
    ``divided``: each item is a part of one delivery, which is told what became of it.
    """

    def __init__(
        self,
        *,
        lock: Condition,
        ledger: Ledger,
        breaker: Breaker,
        stop_on_refusal: bool,
        aggregated: bool,
        divided: bool,
        dead_letters: DeadLetterPort,
        metrics: RouteMetrics,
        clock: Clock,
        log: FilteringBoundLogger,
        stop: Callable[[str], None],
        history: History,
    ) -> None:
        self._changed = lock
        self._ledger = ledger
        self._breaker = breaker
        self._stop_on_refusal = stop_on_refusal
        self._aggregated = aggregated
        self._divided = divided
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._stop = stop
        self.history = history
        #: by key, sentinels that are acked later, and when: in the order of their time
        self._lingering: OrderedDict[str | None, tuple[float, list[Delivery]]] = OrderedDict()
        self._hurried: list[list[Delivery]] = []
        #: they fill the prefetch: with more of them than this the oldest go early
        self.most_lingering: float = inf

    def conclude(self, outcome: Outcome, request: Request, source: str) -> None:
        """Settle what is final: ack what was written, dead-letter what was refused."""
        outcome = self._whole(outcome)
        ends = {"written": outcome.written}
        rejected: list[Final] = []
        later: list[Item] = []
        for final in outcome.others:
            item, word = final
            if word.fate is Fate.DEAD_LETTER:
                rejected.append(final)
            elif word.fate is Fate.BLOCKED:
                later.append(item)
            elif word.fate is Fate.WRITTEN:
                outcome.written.append(item)
                self._metrics.divert(word.reason)
            else:
                ends.setdefault(_ENDS[word.fate], []).append(item)
        for verdict, items in ends.items():
            if items:
                with self._changed:
                    # under the lock: a copy that comes now is either among them, or is told they are settled
                    members = self._members(items)
                    deliveries = list(with_followers(members))
                    self._ledger.settle(deliveries)
                    if verdict in _HEALTHY:
                        self._breaker.pass_(len(members))
                        self._metrics.last_write.set(self._clock.time())
                self.acknowledge(deliveries, verdict)
                self.count(items, verdict, request)
        if later:
            self._postpone(later, request)
        if rejected:
            now = self._clock.time()
            failed = request.first_failed
            first = now if failed is None else now - (self._clock.monotonic() - failed)
            attempts = request.attempts + 1
            sent = self.refuse(
                [
                    Refused(d, v.reason, v.detail, v.status, source, first, now, attempts)
                    for item, v in rejected
                    for d in item.deliveries
                ]
            )
            fate = "dead_lettered" if sent else "given_back"
            self.count([item for item, _ in rejected], fate, request)

    def _postpone(self, items: Sequence[Item], request: Request) -> None:
        """Give messages back that their source holds until their time comes."""
        with self._changed:
            deliveries = list(with_followers(self._members(items)))
            self._ledger.forget(deliveries)
        dead = self.settle(deliveries, Settlement.GIVE_BACK)
        self._metrics.settled("postponed", len(deliveries) - dead)
        self._metrics.settled("given_back", dead)
        self.count(items, "postponed", request)

    def give_back(self, items: Iterable[Item]) -> None:
        """Conclude items that nobody can ack any more: the broker hands their deliveries out again."""
        final = self._whole(Outcome([], [Final(item, _GIVEN_BACK) for item in items])).others
        gone = [item for item, _ in final]
        self.give_up(delivery for item in gone for delivery in with_followers(item.deliveries))
        self.count(gone, "given_back")

    def _members(self, items: Sequence[Item]) -> Sequence[Delivery]:
        if self._aggregated:
            return [delivery for item in items for delivery in item.deliveries]
        return cast("Sequence[Delivery]", items)  # each is its own: to ask it costs as much as all else here

    def _whole(self, outcome: Outcome) -> Outcome:
        """Leave out items whose deliveries stand in others too, but for the last of these to be final."""
        if not self._aggregated:
            return outcome
        whole = Outcome([], [])
        if self._divided:
            self._note_parts(outcome)
        with self._changed:
            for item in outcome.written:
                if item.shared is None:
                    whole.written.append(item)
                elif item.shared.settle(0, WRITTEN):
                    self._add(whole, item, item.shared.word)
            for item, said in outcome.others:
                word = said
                if item.shared is not None:
                    if not item.shared.settle(_BADNESS[said.fate], said):
                        continue
                    word = item.shared.word
                self._add(whole, item, word)
        return whole

    @staticmethod
    def _add(whole: Outcome, item: Item, word: Verdict) -> None:
        if word is WRITTEN:
            whole.written.append(item)
        else:
            whole.others.append(Final(item, word))

    def _note_parts(self, outcome: Outcome) -> None:
        """Tell messages what became of their parts, before anybody can settle them."""
        passed, refused = len(outcome.written), 0
        for item in outcome.written:
            item.deliveries[0].part_final(item, WRITTEN)
        for item, word in outcome.others:
            if word.fate is Fate.BLOCKED:
                continue
            passed += word.fate in {Fate.WRITTEN, Fate.DUPLICATE}
            refused += word.fate is Fate.DEAD_LETTER
            for delivery in item.deliveries:
                delivery.part_final(item, word)
        with self._changed:
            # by recipient: one that is refused in each message is no fault of the route
            self._breaker.pass_(passed)
            self._breaker.trips(refused)

    def discard(self, judged: Sequence[tuple[Delivery, Verdict]]) -> None:
        """Ack deliveries that are not to be written, by the word on each; the ledger knows of it already."""
        if self._divided:
            for delivery, word in judged:
                delivery.part_final(delivery, word)
        for verdict in dict.fromkeys(word.fate for _, word in judged):
            members = [delivery for delivery, word in judged if word.fate is verdict]
            self.acknowledge(list(with_followers(members)), _ENDS[verdict])

    def dead_lettered(self, refused: Sequence[Refused]) -> None:
        """Settle deliveries that are safe in the dead-letter queue. Called by its thread."""
        with self._changed:
            deliveries = list(with_followers(entry.delivery for entry in refused))
            self._ledger.settle(deliveries)
            self._changed.notify()
        self.history.refused(refused, self._clock.time())
        for reason, number in Counter(entry.reason for entry in refused).items():
            self._metrics.dead_letter(reason, number)
        self.acknowledge(deliveries, "dead_lettered")

    def retried(self, refused: Sequence[Refused]) -> None:
        """Settle deliveries that are safe in a retry queue. Called by the dead letters' thread.

        The ledger forgets them: what comes again of their ids is to be written, redelivered or not.
        """
        with self._changed:
            deliveries = list(with_followers(entry.delivery for entry in refused))
            self._ledger.forget(deliveries)
            self._changed.notify()
        self.acknowledge(deliveries, "retried")

    def refuse(self, refused: list[Refused]) -> bool:
        """Hand refused deliveries to the dead-letter queue; False if there are too many to be at fault.

        Then the route stops, and they stay in their queue.
        """
        with self._changed:
            tripped = self._breaker.trips(len(refused)) or self._stop_on_refusal
            self._ledger.depart(entry.delivery for entry in refused)
            if tripped:
                self.give_up(with_followers(entry.delivery for entry in refused))
        if tripped:
            # most likely the fault is in the configuration: the messages stay where they are
            reasons = Counter(entry.reason for entry in refused).most_common(3)
            share = "a message is" if self._stop_on_refusal else "most messages are"
            self._stop(f"{share} refused: {', '.join(f'{word} ({n})' for word, n in reasons)}")
            return False
        self._dead_letters.submit(refused)
        return True

    def acknowledge(self, deliveries: Sequence[Delivery], verdict: str) -> None:
        """Have deliveries acked on the links that brought them, and count them."""
        if deliveries:
            dead = self.settle(deliveries, Settlement.ACK)
            self._metrics.settled(verdict, len(deliveries) - dead)
            self._metrics.settled("given_back", dead)

    @staticmethod
    def settle(deliveries: Iterable[Delivery], how: Settlement) -> int:
        """Post settlements to each link; return how many deliveries had lost theirs."""
        by_link: dict[Link, list[Delivery]] = {}
        for delivery in deliveries:
            by_link.setdefault(delivery.link, []).append(delivery)
        dead = 0
        for link, members in by_link.items():
            if link.alive:
                link.settle(members, how)
            else:
                dead += len(members)
        return dead

    def count(self, items: Iterable[Item], fate: str, request: Request | None = None) -> None:
        """Note final items in their batches; conclude the batches that are done with.

        ``request``: the one that brought the last word on them, if one did.
        """
        finished = []
        sent, attempts = (inf, 0) if request is None else (request.sent, request.attempts + 1)
        attempts = attempts if sent < inf else 0
        with self._changed:
            # those of one batch follow one another, mostly
            for batch, of_batch in groupby(items, _batch_of):
                messages = sum([item.messages for item in of_batch])
                batch.sent = min(batch.sent, sent)
                batch.attempts = max(batch.attempts, attempts)
                batch.remaining -= messages
                batch.fates[fate] += messages
                if not batch.remaining:
                    finished.append(batch)
        self.finish(finished)

    def finish(self, batches: Iterable[Batch]) -> None:
        """Ack the sentinels of batches that are done with, and say what became of them."""
        now, ended = self._clock.monotonic(), self._clock.time()
        telling = _tells(self._log)
        for batch in batches:
            if batch.controls:
                self._conclude_controls(batch)
            report = self.history.report(batch, now, ended)
            self._metrics.concluded(report.queueing, report.writing, report.fill)
            if telling:
                told = report.told()
                # a key may be a piece of a document: only for those who ask for it
                self._log.debug("batch_key", key=batch.key, **told)
                self._log.info("batch", **told)
            # its members know it: let them go at once, not when the collector finds the circle
            batch.deliveries, batch.controls = [], []

    def _conclude_controls(self, batch: Batch) -> None:
        """Ack the sentinels of a batch; where all of its members go back to the broker, they do too."""
        back = batch.fates["given_back"] + batch.fates["postponed"]
        returned = 0 < len(batch.deliveries) == back
        with self._changed:
            controls = list(with_followers(batch.controls))
            if returned:
                self.give_up(controls)
            else:
                self._ledger.settle(controls)
        if returned:
            self.settle(controls, Settlement.GIVE_BACK)
        else:
            self._after_members(batch, controls)

    def _after_members(self, batch: Batch, controls: list[Delivery]) -> None:
        """Ack sentinels; those that name a document, so long after their members that these are surely gone.

        A process that is killed leaves members to be handed out again whose acks were on their way, or
        read by the broker and not carried out yet. Their sentinel has to be among them: it alone tells
        that they were a part of a whole.
        """
        if not (self._aggregated and batch.deliveries and batch.named_by):
            self.acknowledge(controls, "control")
            return
        with self._changed:
            self.hurry(batch.key)
            self._lingering[batch.key] = self._clock.monotonic() + SENTINEL_SECONDS, controls
            self._changed.notify()

    @property
    def lingering(self) -> list[Delivery]:
        """The sentinels that are acked later."""
        waiting = [*self._hurried, *(controls for _, controls in self._lingering.values())]
        return [control for controls in waiting for control in controls]

    @property
    def lingers(self) -> bool:
        """Whether there are any."""
        return bool(self._lingering or self._hurried)

    def hurry(self, key: str | None) -> None:
        """Wait no longer with the sentinels of a key that has new members. Called under the lock.

        A crash would leave them beside these, and they would pass for members that are written.
        """
        if (found := self._lingering.pop(key, None)) is not None:
            self._hurried.append(found[1])

    def release(self, now: float) -> list[list[Delivery]]:
        """Take out the sentinels whose time has come. Called under the lock; ack them outside of it."""
        found, self._hurried = self._hurried, []
        while self.wake_at <= now:
            found.append(self._lingering.popitem(last=False)[1][1])
        return found

    @property
    def wake_at(self) -> float:
        """When :meth:`release` has something; ``inf`` for never."""
        if self._hurried or len(self._lingering) > self.most_lingering:
            return -inf
        return next(iter(self._lingering.values()))[0] if self._lingering else inf

    def give_up(self, deliveries: Iterable[Delivery]) -> None:
        """Note that deliveries go back to the broker: what comes again is new."""
        deliveries = list(deliveries)
        self._ledger.forget(deliveries)
        self._metrics.settled("given_back", len(deliveries))


def _tells(log: FilteringBoundLogger) -> bool:
    """Whether a line of the level ``info`` would be seen."""
    try:
        return log.is_enabled_for(INFO)
    except AttributeError:  # a host application's loggers need not know of levels
        return True
