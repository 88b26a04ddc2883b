"""The limit of requests under way, step by step, and what the outbox tells it."""

from __future__ import annotations

from math import inf
from threading import Thread

import pytest

from aggregator.assembly import make_limits
from aggregator.check import check
from aggregator.clock import SYSTEM_CLOCK
from aggregator.completion import Age, Size, any_of
from aggregator.concurrency import SAMPLES, Concurrency
from aggregator.config import load
from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkRaisedError,
    SinkUnavailableError,
)
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.outbox import Outbox
from aggregator.pipeline import Limits, Pipeline
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.sinks.base import Limits as SinkLimits
from aggregator.testing.broker import MemoryBroker, QueueLink
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.faults import Faults
from aggregator.testing.memory import MemoryDelivery
from aggregator.testing.sink import MemorySink
from tests.servers.base import wait_for

RETRY = Verdict(Fate.RETRY, "es_rejected_execution_exception", status=429)
BLOCKED = Verdict(Fate.BLOCKED, "read-only")
DEAD = Verdict(Fate.DEAD_LETTER, "bad")


class Sink:
    """Takes ``slots`` requests at once, each of them for ``seconds``; the others wait for their turn."""

    def __init__(self, slots, seconds=1.0, most=32):
        self.slots, self.seconds, self.now = slots, seconds, 0.0
        self.machine = Concurrency(most, adaptive=True)

    def measure(self, times=1):
        """Answer as many requests as are judged together."""
        for _ in range(times):
            limit, left = self.machine.limit, self.now
            self.now += self.seconds * max(1.0, limit / self.slots)
            for _ in range(max(SAMPLES, int(limit))):
                while not self.machine.full:
                    self.machine.leave()
                self.machine.answered(left, self.now, 100)
        return self.machine.limit


def test_it_doubles_until_that_brings_nothing_more():
    sink = Sink(slots=8)
    assert [sink.measure() for _ in range(6)] == [4, 4, 8, 8, 16, 8]


def test_it_stays_about_where_more_bring_nothing():
    sink = Sink(slots=8)
    sink.measure(10)
    limits = [sink.measure() for _ in range(200)]
    assert (min(limits), max(limits)) == (6, 10)
    assert sum(limits) / len(limits) == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize(("before", "after"), [(4, 16), (16, 4), (16, 1)])
def test_it_follows_the_number_of_slots(before, after):
    sink = Sink(slots=before)
    sink.measure(60)
    sink.slots = after
    sink.measure(100)
    limits = [sink.measure() for _ in range(50)]
    assert sum(limits) / len(limits) == pytest.approx(after, rel=0.3, abs=1)


def test_a_sink_that_is_five_times_slower_makes_it_fall_and_then_find_the_same_again():
    sink = Sink(slots=16)
    before = [sink.measure() for _ in range(60)][-20:]
    sink.seconds = 5.0
    fallen = min(sink.measure() for _ in range(4))
    assert fallen <= 0.75 * max(before)
    limits = [sink.measure() for _ in range(60)][-20:]
    assert sum(limits) / 20 == pytest.approx(16, rel=0.25)


def test_answers_that_say_nothing_change_nothing():
    machine = Concurrency(32, adaptive=True)
    for _ in range(20 * SAMPLES):
        while not machine.full:
            machine.leave()
        machine.answered(1.0, 2.0, 5, throttled=None)
    assert machine.limit == 2


def item(body=b"x"):
    delivery = MemoryDelivery(body)
    delivery.id = "made-up"
    return delivery


class Told(Concurrency):
    """Keeps what it was told of the last answer: whether it was throttled."""

    throttled = "nothing"

    def answered(self, left, now, items, *, throttled=False):
        self.throttled = throttled
        super().answered(left, now, items, throttled=throttled)


def outbox_at(limit):
    """Return an outbox with as many requests under way as may be; its limit."""
    machine = Told(32, adaptive=True)
    machine.limit = limit
    box = Outbox(max_items=3, max_bytes=1000, concurrency=machine)
    for _ in range(10):
        box.offer([item(), item(), item()], 3, 1.0)
    sent = []
    while request := box.take(2.0):
        sent.append(request)
    return box, sent


def test_no_more_leave_than_may_and_nobody_wakes_for_more():
    box, sent = outbox_at(4)
    assert len(sent) == 4
    assert box.wake_at(2.0) == inf
    box.resolve(sent[0], None, 3.0)
    assert box.wake_at(3.0) < 3.0
    assert box.take(3.0) is not None
    assert box.take(3.0) is None


@pytest.mark.parametrize(
    ("answer", "throttled"),
    [
        (None, False),
        ([WRITTEN, DUPLICATE, DEAD], False),
        ([WRITTEN, WRITTEN, RETRY], True),
        ([RETRY] * 3, True),
        ([BLOCKED] * 3, None),
        (SinkUnavailableError("429"), True),
        (SinkRaisedError("own"), None),
        (SinkBlockedError("read-only"), None),
        (RequestRefusedError("bad"), None),
        (RequestTooLargeError("413"), None),
        (ValueError("whatever"), None),
    ],
    ids=repr,
)
def test_what_makes_it_fall(answer, throttled):
    box, sent = outbox_at(4)
    if isinstance(answer, Exception):
        box.fail(sent[0], answer, 3.0)
    else:
        box.resolve(sent[0], answer, 3.0)
    assert box.concurrency.throttled is throttled
    assert (box.concurrency.limit, box.concurrency.under_way) == (3 if throttled else 4, 3)


def test_what_never_reaches_the_sink_leaves_its_place_to_another():
    box, sent = outbox_at(2)
    box.refuse(sent[0], [], 3.0)
    assert box.concurrency.under_way == 2, "something is left of it"
    box.exchange(sent[0], {each: [] for each in sent[0].items}, 3.0)
    assert box.concurrency.under_way == 1


def test_the_setting_reaches_the_route():
    settings = load(["--concurrency", "8", "--adaptive-concurrency"])
    limits = make_limits(settings.routes["default"])
    assert (limits.concurrency, limits.adaptive_concurrency) == (8, True)
    assert "8 at once as far as it brings something" in str(check(settings))
    assert not make_limits(load([]).routes["default"]).adaptive_concurrency


@pytest.mark.parametrize(
    ("most", "sinks", "adaptive", "limit"), [(8, 4, False, 4), (8, 4, True, 2), (3, 9, False, 3)]
)
def test_the_smaller_of_route_and_sink_holds(most, sinks, adaptive, limit):
    metrics, _ = route(Limits(concurrency=most, adaptive_concurrency=adaptive), sinks)
    assert metrics.registry.get_sample_value("aggregator_requests_limit", {"route": "r"}) == limit
    assert metrics.registry.get_sample_value("aggregator_requests_under_way", {"route": "r"}) == 0


def test_of_many_idle_threads_one_wakes_for_a_deadline():
    _, pipeline = route(Limits(concurrency=8, adaptive_concurrency=True), 8)
    broker = MemoryBroker(Faults())
    broker.publish(b"{}")
    link = broker.connect(10, QueueLink)
    pipeline.link_opened(link, 10)
    pipeline.accept(broker.deliver(link, 10))
    threads = [Thread(target=pipeline.run) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(pipeline._alarms) == 8, "eight idle threads")
    deadlines = [alarm for alarm in pipeline._alarms if alarm < inf]
    pipeline.close()
    for thread in threads:
        thread.join()
    assert len(deadlines) == 1


def route(limits, sinks):
    """Return the metrics and the pipeline of a route to a sink that takes so many requests at once."""
    metrics, sink, dead = Metrics(), MemorySink(Faults()), MemoryDeadLetters(SYSTEM_CLOCK)
    sink.limits = SinkLimits(concurrency=sinks)
    pipeline = Pipeline(
        "r",
        intake=Intake(SYSTEM_CLOCK),
        completion=any_of(Size(5), Age(1000.0)),
        sink=sink,
        dead_letters=dead,
        metrics=metrics.route("r"),
        limits=limits,
    )
    dead.report = pipeline.dead_lettered
    return metrics, pipeline
