"""Outbox and tags each against a plain model of itself; the buffer has a machine of its own."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.backoff import Backoff
from aggregator.errors import RequestRefusedError, RequestTooLargeError, SinkUnavailableError
from aggregator.ledger import AckWindow
from aggregator.outbox import Outbox
from aggregator.request import Final
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.testing.memory import MemoryDelivery

STEPS = settings(
    stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


class Requests(RuleBasedStateMachine):
    """Every item that goes in becomes final once; ids are never under way twice; order is kept."""

    @initialize(items=st.integers(1, 5), size=st.integers(1, 15), linger=st.sampled_from([0.0, 1.0]))
    def begin(self, items, size, linger):
        self.items, self.size = items, size
        self.box = Outbox(
            max_items=items, max_bytes=size, linger=linger, backoff=Backoff(0.1, 2.0, Random(3))
        )
        self.now = 100.0
        self.inside, self.order, self.under_way = [], {}, []
        self.latest = {}

    @rule(
        batch=st.lists(
            st.tuples(st.integers(0, 6), st.sampled_from(["", "", "x", "y"])), min_size=1, max_size=8
        )
    )
    def offer(self, batch):
        deliveries = []
        for size, id_ in batch:
            delivery = MemoryDelivery(b"x" * size)
            delivery.id, delivery.fingerprint = id_ or str(len(self.order)), 1 if id_ else 0
            self.order[delivery] = len(self.order)
            deliveries.append(delivery)
        self.inside += deliveries
        self.box.offer(deliveries, sum(delivery.size for delivery in deliveries), self.now)

    @rule(hurry=st.booleans())
    def take(self, hurry):
        due = self.box.wake_at() <= self.now
        request = self.box.take(self.now, hurry=hurry)
        if request is None:
            return
        assert due or hurry
        assert 0 < len(request.items) <= self.items
        assert request.size == sum(item.size for item in request.items)
        assert request.size <= self.size or len(request.items) == 1
        for item in request.items:
            if item.fingerprint:
                assert item.id not in [i.id for other in self.under_way for i in other.items]
                assert self.order[item] >= self.latest.get(item.id, -1), "overtaken"
                self.latest[item.id] = self.order[item]
        assert len({item.id for item in request.items}) == len(request.items)
        self.under_way.append(request)

    def pop(self, which):
        return self.under_way.pop(which % len(self.under_way))

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 9), fates=st.lists(st.sampled_from(list(Fate)), min_size=5, max_size=5))
    def answer(self, which, fates):
        request = self.pop(which)
        verdicts = [Verdict(fate) for fate in fates[: len(request.items)]]
        sent = list(request.items)
        written, others = self.box.resolve(request, verdicts, self.now)
        assert written == [item for item, verdict in zip(sent, verdicts, strict=True) if verdict == WRITTEN]
        final = [
            item
            for item, v in zip(sent, verdicts, strict=True)
            if v.fate in {DUPLICATE.fate, Fate.EXPIRED, Fate.REFUSED, Fate.DEAD_LETTER}
        ]
        assert [item for item, _ in others] == final
        self.final(written, others)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 9))
    def all_written(self, which):
        self.final(*self.box.resolve(self.pop(which), None, self.now))

    @precondition(lambda self: self.under_way)
    @rule(
        which=st.integers(0, 9),
        error=st.sampled_from(
            [SinkUnavailableError(""), RequestTooLargeError(""), RequestRefusedError("bad")]
        ),
    )
    def fail(self, which, error):
        request = self.pop(which)
        alone = len(request.items) == 1 and not isinstance(error, SinkUnavailableError)
        written, others = self.box.fail(request, error, self.now)
        assert (len(written), len(others)) == (0, alone)
        self.final(written, others)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 9), count=st.integers(1, 5))
    def refuse(self, which, count):
        """Some of it cannot become documents; what is left is sent."""
        request = self.pop(which)
        gone = [Final(item, Verdict(Fate.DEAD_LETTER)) for item in request.items[:count]]
        self.final(*self.box.refuse(request, gone, self.now))
        if request.items:
            self.under_way.append(request)

    def final(self, written, others):
        for item in (*written, *(final.item for final in others)):
            self.inside.remove(item)

    @rule(which=st.randoms(use_true_random=False), share=st.floats(0, 1))
    def drop(self, which, share):
        """A link was lost: some of what waits goes back to the broker."""
        gone = [item for item in self.box.waiting() if which.random() < share]
        self.box.drop(gone)
        self.final(gone, [])

    @rule(seconds=st.sampled_from([0.05, 0.5, 3.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @invariant()
    def counts(self):
        if not hasattr(self, "box"):
            return
        assert self.box.pending == len(self.inside)
        assert self.box.bytes == sum(item.size for item in self.inside)
        waiting = self.box.waiting()
        parked = [item for request in self.under_way for item in request.items]
        assert sorted(map(id, (*waiting, *parked))) == sorted(map(id, self.inside))

    def teardown(self):
        if not hasattr(self, "box"):
            return
        while self.under_way:
            self.all_written(0)
        for _ in range(10_000):
            if not self.inside:
                break
            self.take(hurry=True)
            while self.under_way:
                self.all_written(0)
            self.now += 0.5
        assert not self.inside, "some never left"
        assert not self.box._busy
        assert self.box.wake_at() == inf or not self.box.waiting()


class Tags(RuleBasedStateMachine):
    """A broker's own view: an ack settles what was asked for and nothing else, and never fails."""

    @initialize(multiple=st.booleans())
    def begin(self, multiple):
        self.window = AckWindow(multiple=multiple)
        self.multiple = multiple
        self.next, self.unacked, self.asked = 1, [], set()

    @rule(count=st.integers(1, 6))
    def deliver(self, count):
        for _ in range(count):
            self.window.deliver((self.next,))
            self.unacked.append(self.next)
            self.next += 1

    @rule(
        which=st.randoms(use_true_random=False),
        share=st.sampled_from([0.2, 0.6, 1.0]),
        again=st.booleans(),
        hold=st.booleans(),
    )
    def settle(self, which, share, again, hold):
        tags = [tag for tag in self.unacked if which.random() < share and tag not in self.asked]
        which.shuffle(tags)
        asked = [*tags, *list(self.asked)[:2]] if again else tags
        upto, singles = self.window.settle(asked, hold=hold)
        assert upto is None or self.multiple
        self.asked |= set(tags)
        if upto is not None:
            assert upto in self.unacked, "406"
            assert {tag for tag in self.unacked if tag <= upto} <= self.asked, "acked by the way"
            self.unacked = [tag for tag in self.unacked if tag > upto]
        for tag in singles:
            assert tag in self.unacked, "406"
            self.unacked.remove(tag)
        held = self.asked & set(self.unacked)
        assert held == set(self.window.waiting), "asked for, and not acked"
        if held:
            assert hold
            assert len(singles) <= 1 or not self.multiple
            assert min(set(self.unacked) - self.asked) < min(held), "one ack would have been enough"

    @rule(which=st.randoms(use_true_random=False))
    def give_back(self, which):
        tags = [tag for tag in self.unacked if which.random() < 0.3 and tag not in self.asked]
        assert self.window.give_back([*tags, *self.asked]) == tags
        self.unacked = [tag for tag in self.unacked if tag not in tags]
        self.asked |= set(tags)

    @invariant()
    def agrees(self):
        if hasattr(self, "window"):
            assert len(self.window) == len(self.unacked)


TestRequests, TestTags = Requests.TestCase, Tags.TestCase
TestRequests.settings = TestTags.settings = STEPS
pytestmark = pytest.mark.timeout(300 + STEPS.max_examples)
