"""The limit of requests under way, step by step, and what the outbox tells it."""

from __future__ import annotations

from math import inf

import pytest

from aggregator.concurrency import SAMPLES, Concurrency
from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkBlockedError,
    SinkRaisedError,
    SinkUnavailableError,
)
from aggregator.outbox import Outbox
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.testing.memory import MemoryDelivery

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
    assert [sink.measure() for _ in range(4)] == [4, 8, 16, 8]


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


def item(body=b"x"):
    delivery = MemoryDelivery(body)
    delivery.id = "made-up"
    return delivery


def outbox_at(limit):
    """Return an outbox with as many requests under way as may be; its limit."""
    machine = Concurrency(32, adaptive=True)
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
    ("answer", "limit"),
    [
        (None, 4),
        ([WRITTEN, DUPLICATE, DEAD], 4),
        ([WRITTEN, WRITTEN, RETRY], 3),
        ([RETRY] * 3, 3),
        ([BLOCKED] * 3, 4),
        (SinkUnavailableError("429"), 3),
        (SinkRaisedError("own"), 4),
        (SinkBlockedError("read-only"), 4),
        (RequestRefusedError("bad"), 4),
        (RequestTooLargeError("413"), 4),
        (ValueError("whatever"), 4),
    ],
    ids=repr,
)
def test_what_makes_it_fall(answer, limit):
    box, sent = outbox_at(4)
    if isinstance(answer, Exception):
        box.fail(sent[0], answer, 3.0)
    else:
        box.resolve(sent[0], answer, 3.0)
    assert (box.concurrency.limit, box.concurrency.under_way) == (limit, 3)


def test_what_never_reaches_the_sink_leaves_its_place_to_another():
    box, sent = outbox_at(2)
    box.refuse(sent[0], [], 3.0)
    assert box.concurrency.under_way == 2, "something is left of it"
    box.exchange(sent[0], {each: [] for each in sent[0].items}, 3.0)
    assert box.concurrency.under_way == 1
