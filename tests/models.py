"""Models that the core is tested against: a broker, a sink, a dead-letter queue, a flush thread.

Each is small and strict. What must never happen is noted in a list of faults that all of them share: an
exception alone could be swallowed where it is raised, in a sink or on a flush thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import count
from threading import Semaphore, Thread

from aggregator.delivery import Settlement
from aggregator.errors import SinkUnavailableError
from aggregator.sinks.base import Fate, Limits, Verdict
from aggregator.testing.memory import MemoryDelivery
from consumers.link import ChannelLink


@dataclass(eq=False)
class Message:
    """What was published. ``acked`` counts how often the broker was told to forget it."""

    number: int
    body: bytes
    id: str | None = None
    key: str | None = None
    sentinel: bool = False
    expected: int | None = None
    deliveries: int = 0
    acked: int = 0

    def headers(self):
        found = {"key": self.key, "sentinel": "yes" if self.sentinel else None, "members": self.expected}
        if self.deliveries > 1:
            found["x-delivery-count"] = self.deliveries - 1
        return {name: value for name, value in found.items() if value is not None}


class Faults(list):
    """What must never have happened, a line each."""

    def unless(self, holds, fault):
        if not holds:
            self.append(fault)
        return holds


class ModelChannel:
    """One channel of the broker: tags from 1, unacked messages, acks as AMQP means them."""

    def __init__(self, broker, prefetch):
        self.broker = broker
        self.prefetch = prefetch
        self.unacked = {}
        self.tags = count(1)
        self.open = True

    def basic_ack(self, tag, multiple=False):
        if not self.open:
            return  # the socket is half open: it goes nowhere
        if not self.broker.faults.unless(tag in self.unacked, f"406: unknown delivery tag {tag}"):
            return
        for settled in [t for t in self.unacked if t == tag or (multiple and t <= tag)]:
            message, delivery = self.unacked.pop(settled)
            message.acked += 1
            self.broker.on_ack(message, delivery)

    def basic_reject(self, tag, requeue):
        assert requeue
        if not self.open:
            return
        if not self.broker.faults.unless(tag in self.unacked, f"406: unknown delivery tag {tag}"):
            return
        message, delivery = self.unacked.pop(tag)
        self.broker.on_reject(message, delivery)
        self.broker.ready.append(message)


class ModelLink(ChannelLink):
    """The real link, which notes what it was asked for."""

    def __init__(self, channel, epoch, *, multiple, clock):
        super().__init__(channel, epoch, multiple=multiple, wake=lambda: None, clock=clock)
        self.channel = channel
        self.prefetch = channel.prefetch
        self.asked = {}

    def settle(self, deliveries, how):
        faults = self.channel.broker.faults
        for delivery in deliveries:
            faults.unless(delivery.link is self, "settled on a link that did not bring it")
            faults.unless(self.alive, "settled on a dead link")
            faults.unless(delivery.tag not in self.asked, f"settled twice: {delivery.tag}")
            self.asked[delivery.tag] = how
        super().settle(deliveries, how)


class ModelBroker:
    """One queue. ``on_ack`` and ``on_reject`` are told each message that leaves a channel."""

    def __init__(self, clock, faults, *, multiple=True, on_ack=lambda message, delivery: None):
        self.clock = clock
        self.faults = faults
        self.multiple = multiple
        self.ready = deque()
        self.published = []
        self.rejected = []
        self._on_ack = on_ack
        self._epochs = count(1)

    def publish(self, body, **properties):
        message = Message(len(self.published), body, **properties)
        self.published.append(message)
        self.ready.append(message)

    def connect(self, prefetch):
        channel = ModelChannel(self, prefetch)
        return ModelLink(channel, next(self._epochs), multiple=self.multiple, clock=self.clock)

    def deliver(self, link, most):
        """Hand out what is ready, within the prefetch; the client has read it."""
        channel, found = link.channel, []
        while channel.open and self.ready and len(found) < most and len(channel.unacked) < channel.prefetch:
            message = self.ready.popleft()
            message.deliveries += 1
            tag = next(channel.tags)
            delivery = MemoryDelivery(
                message.body,
                headers=message.headers(),
                properties={"message_id": message.id} if message.id else {},
                link=link,
                tag=tag,
                redelivered=message.deliveries > 1,
            )
            channel.unacked[tag] = (message, delivery)
            link.delivered(tag)
            found.append(delivery)
        return found

    def hang_up(self, channel, order=lambda messages: messages):
        """End a channel from this side: all that it has unacked is ready again."""
        channel.open = False
        messages = [message for message, _ in channel.unacked.values()]
        channel.unacked.clear()
        self.ready.extendleft(order(messages))

    def on_ack(self, message, delivery):
        asked = delivery.link.asked.get(delivery.tag)
        # an ack with multiple must not settle what nobody concluded
        self.faults.unless(asked is Settlement.ACK, f"acked without being concluded: {delivery.tag}")
        self._on_ack(message, delivery)

    def on_reject(self, message, delivery):
        asked = delivery.link.asked.get(delivery.tag)
        self.faults.unless(asked is Settlement.GIVE_BACK, f"rejected unasked: {delivery.tag}")
        self.rejected.append(message)


@dataclass
class ModelDeadLetters:
    """The dead-letter port: letters wait, are under way, are published; or nothing gets through."""

    clock: object
    waiting: list = field(default_factory=list)
    under_way: list = field(default_factory=list)
    published: list = field(default_factory=list)
    failing_since: float | None = None
    report: object = None

    @property
    def pending(self):
        return len(self.waiting) + len(self.under_way)

    @property
    def bytes(self):
        return sum(len(entry.delivery.body) for entry in (*self.waiting, *self.under_way))

    def submit(self, refused):
        self.waiting += refused

    def drop(self, dead):
        gone = [entry for entry in self.waiting if dead(entry)]
        if self.failing_since is not None and len(gone) == self.pending:
            gone = gone[1:]
        self.waiting = [entry for entry in self.waiting if not any(entry is other for other in gone)]
        return gone

    def begin(self, most):
        moving, self.waiting = self.waiting[:most], self.waiting[most:]
        self.under_way += moving

    def end(self, *, confirmed):
        letters, self.under_way = self.under_way, []
        if not letters:
            return
        if confirmed:
            self.failing_since = None
            self.published += letters
            self.under_way = letters  # the real port reports before it counts them as gone
            self.report(letters)
            self.under_way = []
        else:
            self.waiting += letters
            if self.failing_since is None:
                self.failing_since = self.clock.monotonic()

    def holds(self, delivery):
        """Whether this delivery, or another copy of its message, was published."""
        fingerprint = delivery.fingerprint
        return any(
            entry.delivery is delivery or (fingerprint and entry.delivery.fingerprint == fingerprint)
            for entry in self.published
        )


class ModelSink:
    """A sink whose answers are given by the test; what is written is in ``stored``, by id.

    ``decide(items)`` returns verdicts, None, or raises; ``before(items)`` looks at each request. Two
    requests under way never hold the same id.
    """

    def __init__(self, faults=None, *, limits=None):
        self.faults = Faults() if faults is None else faults
        self.limits = limits or Limits()
        self.stored = {}
        self.requests = []
        self.up = True
        self.decide = lambda items: None
        self.before = lambda items: None
        self.under_way = []

    def open(self):
        self.faults.unless(not self.under_way, "probed while a write is under way")
        if not self.up:
            raise SinkUnavailableError("away")

    def write(self, items):
        ids = [item.id for item in items]
        self.requests.append(ids)
        busy = {key for others in self.under_way for key in others}
        self.faults.unless(len(set(ids)) == len(ids), f"one request, the same id twice: {ids}")
        self.faults.unless(not busy.intersection(ids), f"two requests under way with the same id: {ids}")
        self.before(items)
        self.under_way.append(ids)
        try:
            verdicts = self.decide(items)
        finally:
            self.under_way.remove(ids)
        fates = [Fate.WRITTEN] * len(items) if verdicts is None else [verdict.fate for verdict in verdicts]
        for item, fate in zip(items, fates, strict=False):
            if fate is Fate.WRITTEN:
                self.stored.setdefault(item.id, item.document)
        return verdicts

    def close(self):
        pass

    def where(self):
        return "in memory"


class Flusher:
    """A flush thread that stops inside the sink until the test says how that goes on.

    Only one of the two threads runs at any time, so that each example can be repeated.
    """

    def __init__(self, pipeline):
        self.items = None
        self.did = False
        self.error = None
        self._answer = None
        self._here, self._there = Semaphore(0), Semaphore(0)
        self._pipeline = pipeline
        self._thread = Thread(target=self._run, daemon=True)

    def start(self):
        """Do one step; return whether it is inside the sink now."""
        self._thread.start()
        self._here.acquire()
        self._check()
        return self.items is not None

    def finish(self, answer):
        """Have the sink's write return, or raise, by calling ``answer(items)``."""
        self._answer = answer
        self._there.release()
        self._here.acquire()
        self._thread.join()
        self._check()

    def park(self, items):
        """Called within the sink."""
        self.items = list(items)
        self._here.release()
        self._there.acquire()
        return self._answer(items)

    def _run(self):
        try:
            self.did = self._pipeline.step()
        except BaseException as exc:  # noqa: BLE001
            self.error = exc
        finally:
            self._here.release()

    def _check(self):
        if self.error is not None:
            raise self.error


def verdict(fate):
    """A verdict of each kind, as a sink would give it."""
    return Verdict(fate, reason="" if fate in {Fate.WRITTEN, Fate.DUPLICATE} else f"model_{fate.value}")
