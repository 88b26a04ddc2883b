"""A route under real threads: workers whose links are lost, a slow sink of every mood, dead letters."""

from __future__ import annotations

import threading
from random import Random
from threading import Event, Lock, Thread

import pytest
import structlog
from hypothesis import settings

from aggregator.backoff import Backoff
from aggregator.clock import SYSTEM_CLOCK
from aggregator.completion import Age, Size, any_of
from aggregator.correlation import compile_expression
from aggregator.errors import RequestTooLargeError, SinkUnavailableError
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.pipeline import Limits, Pipeline
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.sinks.base import Limits as SinkLimits
from aggregator.standing import RouteState
from aggregator.testing.broker import MemoryBroker
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.faults import Faults
from aggregator.testing.sink import MemorySink
from tests.models import ModelLink

MESSAGES = 200 * settings().max_examples
WORKERS, FLUSHERS, PREFETCH = 4, 2, 500


@pytest.fixture(autouse=True)
def _quiet():
    def drop(_logger, method, event):
        assert method != "exception", event
        raise structlog.DropEvent

    structlog.configure(processors=[drop])
    yield
    structlog.reset_defaults()


class MoodySink(MemorySink):
    """Takes a moment for each request; now and then it throttles, breaks down, or refuses an item."""

    def __init__(self, faults, random):
        super().__init__(faults)
        self._lock, self._random, self._pause = Lock(), random, Event()

    def write(self, items):
        ids = [item.id for item in items]
        with self._lock:
            busy = {key for others in self.under_way for key in others}
            self.faults.unless(not busy.intersection(ids), "two requests under way with the same id")
            self.under_way.append(ids)
            mood = self._random.random()
            bad = {item.id for item in items if b"bad" in item.document}
        self._pause.wait(0.001)
        with self._lock:
            self.under_way.remove(ids)
            if mood < 0.04:
                if mood < 0.02:
                    self._store(item for item in items[: len(items) // 2] if item.id not in bad)
                raise SinkUnavailableError("the reply is lost")
            if len(items) > 150:
                raise RequestTooLargeError("413")
            return [self._word(item, item.id in bad) for item in items]

    def _word(self, item, bad):
        if bad:
            return Verdict(Fate.DEAD_LETTER, "bad")
        if self._random.random() < 0.01:
            return Verdict(Fate.RETRY, "busy")
        known = item.id in self.stored
        self._store([item])
        return DUPLICATE if known else WRITTEN

    def _store(self, items):
        for item in items:
            self.stored[item.id] = item.document


def make_link(channel, epoch):
    return ModelLink(channel, epoch, multiple=True, clock=SYSTEM_CLOCK)


class Bench:
    """Threads for everything: workers, flushers, the dead-letter queue's own."""

    def __init__(self, seed, *, losses, flushers=FLUSHERS):
        self.random, self.losses, self.flushers = Random(seed), losses, flushers
        self.faults = Faults()
        self.sink = MoodySink(self.faults, Random(seed))
        self.sink.limits = SinkLimits(concurrency=flushers)
        self.metrics = Metrics()
        self.dead = MemoryDeadLetters(SYSTEM_CLOCK)
        self.dead_lock, self.broker_lock = threading.RLock(), Lock()
        self.acked, self.done = 0, Event()
        self.broker = MemoryBroker(self.faults, self.on_ack)
        self.received = 0
        self.pipeline = Pipeline(
            "r",
            intake=Intake(SYSTEM_CLOCK, id=compile_expression("message_id"), delivery_limit=10**6),
            completion=any_of(Size(50), Age(0.05)),
            sink=self.sink,
            dead_letters=self,
            metrics=self.metrics.route("r"),
            limits=Limits(
                request_items=200,
                backoff=Backoff(0.0005, 0.002),
                breaker_window=0,
                held_bytes=30_000,
                adaptive_concurrency=flushers > FLUSHERS,
            ),
        )
        self.dead.report = self.pipeline.dead_lettered

    # the dead-letter port, for several threads
    failing_since = None

    @property
    def bytes(self):
        return 0

    @property
    def pending(self):
        return self.dead.pending

    def submit(self, refused):
        with self.dead_lock:
            self.dead.submit(refused)

    def drop(self, dead):
        with self.dead_lock:
            return self.dead.drop(dead)

    def publish_dead_letters(self):
        pause = Event()
        while not self.done.is_set():
            with self.dead_lock:
                self.dead.begin(100)
            self.dead.end(confirmed=True)
            pause.wait(0.002)

    def on_ack(self, message, delivery):
        safe = delivery.id in self.sink.stored or self.dead.holds(delivery)
        self.faults.unless(safe, f"acked before it was safe: {message}")
        self.acked += message.acked == 1

    def work(self, seed):
        """The body of a worker's thread: one link after the other."""
        random = Random(seed)
        while not self.done.is_set():
            if not self.pipeline.wait_until_consuming(0.01):
                continue
            with self.broker_lock:
                link = self.broker.connect(PREFETCH, make_link)
            woken = Event()
            link.wake = woken.set
            self.pipeline.link_opened(link, PREFETCH)
            self.consume(link, woken, random)
            with self.broker_lock:
                self.broker.hang_up(link.channel)
            link.alive = False
            self.pipeline.link_lost(link)

    def consume(self, link, woken, random):
        while not self.done.is_set() and self.pipeline.consuming:
            if random.random() < self.losses:
                return
            found = []
            if self.pipeline.has_room:
                with self.broker_lock:
                    found = self.broker.deliver(link, random.randint(1, 120))
                    self.received += len(found)
            if found:
                self.pipeline.accept(found)
            else:
                woken.wait(0.005)
                woken.clear()
            with self.broker_lock:
                link.perform(lambda _seconds: None)
                if self.acked == len(self.broker.published):
                    self.done.set()

    def run(self, seconds):
        workers = [Thread(target=self.work, args=(seed,)) for seed in range(WORKERS)]
        flushers = [Thread(target=self.pipeline.run) for _ in range(self.flushers)]
        letters = Thread(target=self.publish_dead_letters)
        for thread in (*workers, *flushers, letters):
            thread.start()
        in_time = self.done.wait(seconds)
        self.done.set()
        for thread in (*workers, letters):
            thread.join(30)
        self.pipeline.close()
        for thread in flushers:
            thread.join(30)
        assert not any(thread.is_alive() for thread in (*workers, *flushers, letters))
        return in_time


@pytest.mark.parametrize(
    ("losses", "seed", "flushers"), [(0.0, 1, FLUSHERS), (0.01, 2, FLUSHERS), (0.01, 3, 8)]
)
def test_everything_is_settled_once(losses, seed, flushers):
    """With more flush threads than two, how many of them write is found out."""
    bench = Bench(seed, losses=losses, flushers=flushers)
    for number in range(MESSAGES):
        body = b"bad" if number % 200 == 7 else b"message %d" % number
        bench.broker.publish(body, properties={"message_id": f"m{number}"} if number % 3 else {})
    in_time = bench.run(90)
    assert not bench.faults, bench.faults[:5]
    assert bench.pipeline.state is RouteState.RUNNING, bench.pipeline.reason
    assert in_time, f"{bench.acked} of {MESSAGES} acked"
    if not losses:
        assert [message.acked for message in bench.broker.published] == [1] * MESSAGES
    assert all(message.acked >= 1 for message in bench.broker.published)
    assert sum(bench.metrics.totals()["r"].values()) == bench.received
    assert bench.pipeline.idle
    assert not bench.pipeline._outbox._busy
    assert not bench.pipeline._ledger.unsettled
    dead = {entry.delivery.id for entry in bench.dead.published}
    given = {f"m{number}" for number in range(MESSAGES) if number % 3}
    assert given <= set(bench.sink.stored) | dead
    assert not dead & set(bench.sink.stored) or losses
    assert {f"m{number}" for number in range(7, MESSAGES, 200) if number % 3} <= dead
    if not losses:
        assert len(bench.sink.stored) + len(bench.dead.published) == MESSAGES, "each exactly once"
