"""A whole route against a model of its broker, its sink and its dead-letter queue.

Whatever happens in whatever order: nothing is acked before it is safe, everything is settled once on
its own link, and once the servers work again everything ends, and nothing is left behind.
"""

from __future__ import annotations

import threading
from collections import Counter
from math import inf
from random import Random

import pytest
import structlog
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.aggregation import Listing, Merge, Own
from aggregator.backoff import Backoff
from aggregator.completion import Age, Bytes, Idle, Size, any_of
from aggregator.correlation import compile_expression, compile_match
from aggregator.delivery import Aggregate
from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkUnavailableError,
)
from aggregator.intake import Intake
from aggregator.ledger import with_followers
from aggregator.metrics import Metrics
from aggregator.pipeline import Limits, Pipeline, RouteState
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.sinks.base import Limits as SinkLimits
from aggregator.testing.broker import MemoryBroker
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.faults import Faults
from aggregator.testing.sink import MemorySink
from tests.models import Flusher, ModelLink

GOOD = [b"one", b'{"n": 2}', b"longer than the others are"]
BAD = [b"", b"\xff\xfe\xff"]
BODIES = [*GOOD, *GOOD, *GOOD, *BAD]
WORKERS = 3
ACK_DEADLINE = 100.0
UNWRITTEN = [Fate.RETRY, Fate.DEAD_LETTER, Fate.BLOCKED]
ERRORS = [
    SinkUnavailableError("model"),
    RequestTooLargeError("model"),
    RequestRefusedError("model_refused", "why", 400),
    SinkBlockedError("model"),
    RuntimeError("unforeseen"),
]


#: several documents of the same deliveries, and one that gets no smaller than its members let it
TWICE = Own(lambda key, documents: [{"a": len(documents)}, {"b": documents}, {"c": key}])
COUNTED = Merge(rules={"n": "count", "*": "append"})


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    """Errors of the core that are only logged are errors here; the rest is not formatted."""
    structlog.configure(processors=[_keep_errors])
    yield
    structlog.reset_defaults()


_LOGGED: list[str] = []


def _keep_errors(_logger, method, event):
    if method == "exception" or event.get("exc_info"):
        import traceback

        _LOGGED.append(traceback.format_exc())
    raise structlog.DropEvent


@st.composite
def configurations(draw):
    keyed = draw(st.booleans())
    maybe = lambda values: draw(st.none() | values)  # noqa: E731
    found = {
        "keyed": keyed,
        "size": maybe(st.integers(1, 5)),
        "bytes": maybe(st.sampled_from([1, 12, 40])),
        "age": maybe(st.sampled_from([1.0, 5.0])),
        "idle": maybe(st.sampled_from([0.5, 2.0])),
        "request_items": draw(st.integers(1, 6)),
        "request_bytes": draw(st.sampled_from([10, 60, 10_000])),
        "linger": draw(st.sampled_from([0.0, 0.7])),
        "held_bytes": draw(st.sampled_from([50, 10_000])),
        "grace": draw(st.sampled_from([0.0, 1.5])) if keyed else 0.0,
        "prefetch": draw(st.integers(1, 7)),
        "multiple": draw(st.booleans()),
        "delivery_limit": draw(st.sampled_from([3, 7, 1000])),
        "isolate_at": draw(st.sampled_from([None, None, 1, 2])),
        "give_back_keyed": draw(st.booleans()),
        "aggregation": draw(st.sampled_from([None, None, Listing(), Listing(2), COUNTED, TWICE])),
    }
    if not any(found[name] for name in ("size", "bytes", "age", "idle")):
        found["size"] = 2
    return found


def is_sentinel(message):
    return "sentinel" in message.headers


class Route(RuleBasedStateMachine):
    """The rules are what the world does; :meth:`teardown` mends it and looks at what is left."""

    @initialize(config=configurations())
    def begin(self, config):
        note(f"{config}")
        _LOGGED.clear()
        self.config = config
        self.clock = VirtualClock()
        self.faults = Faults()
        self.broker = MemoryBroker(self.faults, self.on_ack)
        self.sink = MemorySink(self.faults, limits=SinkLimits(bytes=config["request_bytes"]))
        self.sink.before = self.on_write
        self.sink.decide = self.park
        self.dead = MemoryDeadLetters(self.clock)
        self.metrics = Metrics()
        self.pipeline = self.make_pipeline(config)
        self.dead.report = self.pipeline.dead_lettered
        self.workers: list = [None] * WORKERS
        self.flushers: list[Flusher] = []
        self.healed = False
        self.received = 0
        self.offered: dict[int, int] = {}
        self.latest: dict[str, int] = {}
        self.items = []
        self.watch_offers()
        self.flush_once()  # the probe: the sink is there
        for number in range(WORKERS):
            self.connect(number)
        self.publish(b"one", None, "k1", 3)
        self.publish(b"one", "a", "k1", 2)

    def make_pipeline(self, config):
        conditions = [
            kind(config[name])
            for name, kind in (("bytes", Bytes), ("size", Size), ("age", Age), ("idle", Idle))
            if config[name] is not None
        ]
        return Pipeline(
            "r",
            intake=Intake(
                self.clock,
                key=compile_expression("header:key") if config["keyed"] else None,
                id=compile_expression("message_id"),
                is_sentinel=compile_match("header:sentinel=yes") if config["keyed"] else None,
                sentinel_count="members",
                delivery_limit=config["delivery_limit"],
                isolate_at=config["isolate_at"],
                isolate_groups=config["keyed"] and config["aggregation"] is not None,
            ),
            completion=any_of(*conditions),
            sink=self.sink,
            dead_letters=self.dead,
            metrics=self.metrics.route("r"),
            aggregation=config["aggregation"],
            limits=Limits(
                request_items=config["request_items"],
                request_bytes=config["request_bytes"],
                linger=config["linger"],
                held_bytes=config["held_bytes"],
                ack_deadline=ACK_DEADLINE,
                breaker_window=0,
                backoff=Backoff(0.1, 5.0, Random(1)),
                give_back_keyed=config["give_back_keyed"],
            ),
            grace=config["grace"],
            clock=self.clock,
        )

    def watch_offers(self):
        """Number the items in the order in which their batches were completed."""
        outbox = self.pipeline._outbox
        offer, exchange, isolate = outbox.offer, outbox.exchange, outbox.isolate

        def watched_offer(items, size, now):
            batch = items[0].batch
            self.offered[id(batch)] = len(self.offered)
            self.items += [batch, *items]  # kept, or another one might get its id()
            self.check_batch(batch)
            offer(items, size, now)

        def watched_isolate(item, delivered, now, company=1):
            self.offered[id(item.batch)] = len(self.offered)
            self.items += [item.batch, item]
            self.check_batch(item.batch)
            isolate(item, delivered, now, company)

        def watched_exchange(request, made, now):
            self.items += [item for items in made.values() for item in items]
            exchange(request, made, now)

        outbox.offer, outbox.exchange, outbox.isolate = watched_offer, watched_exchange, watched_isolate

    # ── what is checked at the moment it happens ──

    def check_batch(self, batch):
        size, limit = self.config["size"], self.config["bytes"]
        members = batch.deliveries
        self.faults.unless(size is None or len(members) <= size, f"a group of {len(members)}")
        self.faults.unless(
            limit is None or batch.bytes <= limit or len(members) == 1, f"a group of {batch.bytes} bytes"
        )
        self.faults.unless(batch.bytes == sum(len(d.body) for d in members), "a batch counts wrong")

    def on_write(self, items):
        unless, config = self.faults.unless, self.config
        unless(bool(items), "an empty request")
        unless(len(items) <= config["request_items"], f"a request of {len(items)} items")
        sizes = [len(item.document) if config["aggregation"] else item.size for item in items]
        unless(sum(sizes) <= config["request_bytes"] or len(items) == 1, f"a request of {sum(sizes)} bytes")
        unless(self.pipeline.state is not RouteState.STOPPED, "written though stopped")
        for item in items:
            unless(bool(item.document), "an item without a document")
            if item.fingerprint and (config["keyed"] or not config["aggregation"]):
                order = self.offered[id(item.batch)]
                unless(order >= self.latest.get(item.id, -1), f"{item.id} was overtaken by an older one")
                self.latest[item.id] = order

    def on_ack(self, message, delivery):
        if self.config["aggregation"]:
            stored = self.is_in_documents(delivery)
        else:
            stored = delivery.id in self.sink.stored
        safe = is_sentinel(message) or stored or self.dead.holds(delivery)
        self.faults.unless(safe, f"acked before it was safe: {message}")

    def is_in_documents(self, delivery):
        """Whether every document of a group that this message, or another copy of it, is in is stored."""
        ids = {}
        for item in self.items:
            if isinstance(item, Aggregate) and item.document:
                for member in with_followers(item.deliveries):
                    copy = member.fingerprint == delivery.fingerprint != 0 and member.id == delivery.id
                    if copy or member is delivery:
                        ids.setdefault(id(item.batch), set()).add(item.id)
        return any(group <= self.sink.stored.keys() for group in ids.values())

    def park(self, items):
        for flusher in self.flushers:
            if flusher._thread is threading.current_thread():
                return flusher.park(items)
        raise AssertionError("written by nobody")

    # ── the publisher ──

    @rule(
        body=st.sampled_from(BODIES),
        id_=st.none() | st.sampled_from("abc"),
        key=st.sampled_from(["k1", "k2", None]),
        times=st.integers(1, 4),
    )
    def publish(self, body, id_, key, times):
        for _ in range(times):
            self.put(body, id_, {"key": key})

    @precondition(lambda self: self.config["keyed"])
    @rule(
        id_=st.none() | st.sampled_from("xy"),
        key=st.sampled_from(["k1", "k2"]),
        expected=st.none() | st.integers(0, 4),
    )
    def publish_sentinel(self, id_, key, expected):
        self.put(b"end", id_, {"key": key, "sentinel": "yes", "members": expected})

    def put(self, body, id_, headers):
        headers = {name: value for name, value in headers.items() if value is not None}
        self.broker.publish(body, headers=headers, properties={"message_id": id_} if id_ else {})

    # ── the workers ──

    @precondition(lambda self: self.broker.ready and any(self.workers))
    @rule(number=st.integers(0, WORKERS - 1), most=st.integers(1, 6))
    def receive(self, number, most):
        link = self.workers[number]
        if link is None or not self.pipeline.has_room:
            return
        found = self.broker.deliver(link, most)
        if found:
            self.received += len(found)
            self.pipeline.accept(found)

    @precondition(lambda self: self.broker.ready and any(self.workers))
    @rule()
    def receive_all(self):
        for number in range(WORKERS):
            self.receive(number, 100)

    @precondition(lambda self: None in self.workers and self.pipeline.consuming)
    @rule(number=st.integers(0, WORKERS - 1))
    def connect(self, number):
        if self.workers[number] is None and self.pipeline.consuming:
            self.workers[number] = link = self.broker.connect(self.config["prefetch"], self.make_link)
            self.pipeline.link_opened(link, link.channel.prefetch)

    def make_link(self, channel, epoch):
        return ModelLink(channel, epoch, multiple=self.config["multiple"], clock=self.clock)

    @precondition(lambda self: any(self.workers))
    @rule(number=st.integers(0, WORKERS - 1), flush=st.booleans())
    def perform(self, number, flush):
        link = self.workers[number]
        if link is None:
            return
        if not self.pipeline.consuming:
            self.lose(link)
            return
        link.perform(lambda seconds: self.faults.unless(seconds >= 0, "a negative lag"), flush=flush)

    @precondition(lambda self: any(self.workers))
    @rule(number=st.integers(0, WORKERS - 1), noticed=st.booleans(), order=st.randoms(use_true_random=False))
    def connection_ends(self, number, noticed, order):
        """The broker gives a connection up; the worker may notice it later."""
        link = self.workers[number]
        if link is None:
            return
        if link.channel.open:
            self.broker.hang_up(link.channel, lambda messages: order.sample(messages, len(messages)))
        if noticed:
            self.lose(link)

    def lose(self, link):
        if link.channel.open:
            self.broker.hang_up(link.channel)
        link.alive = False
        self.workers[self.workers.index(link)] = None
        self.pipeline.link_lost(link)

    # ── time, the flush threads ──

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 6.0, 30.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def time_comes(self):
        """Time goes on to the very moment at which something is due."""
        pipeline = self.pipeline
        moment = pipeline._wake_at(self.clock.monotonic())
        if moment < inf:
            self.clock.advance_to(moment)

    @precondition(lambda self: len(self.flushers) < 2 and self.is_due())
    @rule()
    def flush(self):
        self.flush_once()

    def is_due(self):
        now = self.clock.monotonic()
        return self.pipeline._wake_at(now) <= now

    def flush_once(self):
        flusher = Flusher(self.pipeline)
        self.flushers.append(flusher)
        if not flusher.start():
            self.flushers.remove(flusher)
        return flusher.did

    @precondition(lambda self: self.flushers)
    @rule(which=st.integers(0, 1))
    def all_is_written(self, which):
        self.finish(which, self.sink.create)

    @precondition(lambda self: self.flushers)
    @rule(
        which=st.integers(0, 1),
        fates=st.lists(st.sampled_from(list(Fate)), min_size=6, max_size=6),
        missing=st.sampled_from([0, 0, 0, 1]),
    )
    def a_verdict_each(self, which, fates, missing):
        def decide(items):
            words = {fate: Verdict(fate, f"model_{fate.value}") for fate in UNWRITTEN}
            verdicts = [words.get(fate, WRITTEN) for fate in fates[: len(items)]]
            verdicts = [
                DUPLICATE if verdict is WRITTEN and item.id in self.sink.stored else verdict
                for item, verdict in zip(items, verdicts, strict=True)
            ]
            return verdicts[missing:]

        self.finish(which, decide)

    @precondition(lambda self: self.flushers)
    @rule(which=st.integers(0, 1), error=st.sampled_from(ERRORS), written=st.booleans())
    def the_request_fails(self, which, error, written):
        """Unknown to us, the sink may have written some of it."""

        def decide(items):
            if written and not isinstance(error, RequestTooLargeError | RequestRefusedError):
                for item in items[1:]:
                    self.sink.stored.setdefault(item.id, item.document)
            raise error

        self.finish(which, decide)

    def finish(self, which, decide):
        flusher = self.flushers.pop(which % len(self.flushers))
        flusher.finish(decide)

    @precondition(lambda self: not self.pipeline.consuming)
    @rule()
    def the_sink_is_away(self):
        self.sink.up = False

    @precondition(lambda self: not self.sink.up)
    @rule()
    def the_sink_is_back(self):
        self.sink.up = True

    # ── the dead-letter queue ──

    @precondition(lambda self: self.dead.waiting)
    @rule(most=st.integers(1, 4))
    def begin_dead_letters(self, most):
        self.dead.begin(most)

    @precondition(lambda self: self.dead.under_way)
    @rule(confirmed=st.booleans())
    def end_dead_letters(self, confirmed):
        self.dead.end(confirmed=confirmed)

    # ── what holds at any time ──

    @invariant()
    def nothing_went_wrong(self):
        if hasattr(self, "pipeline"):
            assert not self.faults, list(self.faults)
            assert not _LOGGED, _LOGGED[0]
            assert self.pipeline.state is not RouteState.STOPPED, self.pipeline.reason

    @invariant()
    def what_is_counted_is_there(self):
        if not hasattr(self, "pipeline"):
            return
        buffer, outbox = self.pipeline._buffer, self.pipeline._outbox
        members = [d for group in buffer._groups.values() for d in (*group.deliveries, *group.controls)]
        assert buffer.held == sum(1 for _ in with_followers(members))
        assert buffer.bytes == sum(len(d.body) for d in members)
        waiting = outbox.waiting()
        parked = [item for flusher in self.flushers for item in flusher.items]
        assert outbox.pending == len(waiting) + len(parked)
        assert outbox.bytes == sum(item.size for item in (*waiting, *parked))
        totals = self.metrics.totals().get("r", {})
        assert sum(totals.values()) + self.unsettled() == self.received

    def unsettled(self):
        """Deliveries that the route has no last word on: each of them is in exactly one place."""
        buffer, outbox = self.pipeline._buffer, self.pipeline._outbox
        found = [d for group in buffer._groups.values() for d in (*group.deliveries, *group.controls)]
        items = [*outbox.waiting(), *(item for flusher in self.flushers for item in flusher.items)]
        found += [d for item in items for d in item.deliveries]
        found += [entry.delivery for entry in (*self.dead.waiting, *self.dead.under_way)]
        batches = {id(item.batch): item.batch for item in items}.values()
        found += [control for batch in batches for control in batch.controls]
        found += self.pipeline._settler.lingering
        # the documents of one group may share them
        return len({id(delivery) for delivery in with_followers(found)})

    # ── how it ends ──

    def teardown(self):
        if not hasattr(self, "pipeline"):
            return
        self.sink.up = True
        while self.flushers:
            self.finish(0, self.sink.create)
        self.sink.decide = self.sink.create
        for link in filter(None, self.workers[:]):
            if not link.channel.open:
                self.lose(link)  # a heartbeat is missed in the end
        self.go_on()
        assert not self.broker.ready, "messages that nobody takes"
        stop = any(link for link in self.workers)
        if stop:
            self.stop()
        self.check_end()

    def go_on(self):
        """Let everything work, until nothing more happens."""
        for _ in range(400):
            before = self.progress()
            for number in range(WORKERS):
                self.perform(number, flush=False)  # as time goes on, all that is held is sent
                self.connect(number)
                self.receive(number, 100)
            while self.flush_once():
                pass
            self.dead.begin(100)
            self.dead.end(confirmed=True)
            self.clock.advance(3.0)
            if before == self.progress() and self.pipeline.state is RouteState.RUNNING and self.settled_in():
                return
        raise AssertionError(f"it never ends: {self.pipeline.state} {self.pipeline.reason}")

    def settled_in(self):
        timed = self.config["age"] or self.config["idle"]
        waiting = self.broker.ready or (timed and self.pipeline._buffer.held)
        return not waiting and not self.pipeline._outbox.pending and not self.dead.pending

    def progress(self):
        links = [len(link.channel.unacked) if link else -1 for link in self.workers]
        return links, len(self.broker.ready), self.pipeline._buffer.held

    def stop(self):
        """Drain, as the supervisor does: cancelled, so that nothing more comes."""
        self.pipeline.drain()
        for _ in range(100):
            while self.flush_once():
                pass
            self.dead.begin(100)
            self.dead.end(confirmed=True)
            self.clock.advance(3.0)
            if self.pipeline.idle:
                break
        assert self.pipeline.idle
        for number in range(WORKERS):
            self.perform(number, flush=True)

    def check_end(self):
        self.nothing_went_wrong()
        self.what_is_counted_is_there()
        pipeline, config = self.pipeline, self.config
        unacked = [link.channel.unacked for link in self.workers if link]
        assert not any(unacked), f"left unacked: {unacked}"
        for message in self.broker.rejected:
            # a sentinel goes back with its group, members only when the route stops
            keyed = message.headers.get("key") and config["keyed"]
            assert is_sentinel(message) or (keyed and config["give_back_keyed"])
        gone = [message for message in self.broker.published if message.acked]
        assert len(gone) + len(self.broker.ready) == len(self.broker.published)
        assert pipeline._outbox.pending == pipeline._outbox.bytes == 0
        assert not pipeline._outbox._busy
        assert not pipeline._outbox._later
        assert pipeline._buffer.held == pipeline._buffer.bytes == 0
        assert not pipeline._buffer._groups
        totals = Counter(self.metrics.totals().get("r", {}))
        assert totals.total() == self.received
        assert not pipeline._ledger.unsettled, "a leak"
        assert not pipeline.unfinished


TestRoute = Route.TestCase
TestRoute.settings = settings(
    stateful_step_count=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
pytestmark = pytest.mark.timeout(300 + TestRoute.settings.max_examples)
