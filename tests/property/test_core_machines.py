"""Buffer, outbox and tags each against a plain model of itself."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.backoff import Backoff
from aggregator.buffer import Buffer
from aggregator.completion import CLOSING, Age, Bytes, Idle, Size, Trigger, any_of
from aggregator.errors import RequestRefusedError, RequestTooLargeError, SinkUnavailableError
from aggregator.ledger import AckWindow, with_followers
from aggregator.outbox import Final, Outbox
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.testing.memory import MemoryDelivery, MemoryLink

STEPS = settings(
    stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
KEYS = st.sampled_from(["a", "b", None])


class Groups(RuleBasedStateMachine):
    """Every delivery that goes in comes out once, in a batch that had a reason, at the right time."""

    @initialize(
        size=st.none() | st.integers(1, 4),
        limit=st.none() | st.integers(1, 12),
        age=st.none() | st.sampled_from([3.0, 7.0]),
        idle=st.none() | st.sampled_from([1.0, 4.0]),
        grace=st.sampled_from([0.0, 2.0]),
    )
    def begin(self, size, limit, age, idle, grace):
        self.size, self.limit, self.age, self.idle, self.grace = size, limit, age, idle, grace
        kinds = ((Bytes, limit), (Size, size), (Age, age), (Idle, idle))
        self.buffer = Buffer(any_of(*(kind(value) for kind, value in kinds if value)), grace=grace)
        self.now = 100.0
        self.links = [MemoryLink(epoch) for epoch in range(3)]
        self.inside, self.came, self.parts = {}, {}, {}

    @rule(key=KEYS, size=st.integers(0, 6), link=st.integers(0, 2), id_=st.sampled_from(["", "x", "y"]))
    def add(self, key, size, link, id_):
        delivery = self.message(b"x" * size, link, id_)
        self.put(delivery, key)
        self.buffer.advance(self.now)
        self.buffer.add(delivery, key, self.now)

    @rule(key=st.sampled_from("ab"), link=st.integers(0, 2), expected=st.none() | st.integers(0, 3))
    def add_sentinel(self, key, link, expected):
        delivery = self.message(b"end", link, "")
        self.put(delivery, key)
        self.buffer.advance(self.now)
        self.buffer.add_sentinel(delivery, key, expected, self.now)

    def message(self, body, link, id_):
        delivery = MemoryDelivery(body, link=self.links[link])
        delivery.id = id_
        return delivery

    def put(self, delivery, key):
        self.inside[delivery] = key
        self.came[delivery] = self.now

    @precondition(lambda self: self.inside)
    @rule(which=st.randoms(use_true_random=False), link=st.integers(0, 2), alive=st.booleans())
    def a_copy_comes(self, which, link, alive):
        heads = self.heads()
        if not heads:
            return
        old = which.choice(heads)
        new = self.message(old.body, link, old.id)
        old.link.alive = alive
        assert self.buffer.replace(old, new, self.inside[old])
        old.link.alive = True
        self.put(new, self.inside[old])
        if not alive:
            del self.inside[old]

    def heads(self):
        return [d for group in self.buffer._groups.values() for d in (*group.deliveries, *group.controls)]

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.buffer.advance(self.now)

    @rule()
    def time_comes(self):
        if self.buffer.next_deadline < inf:
            self.now = max(self.now, self.buffer.next_deadline)
            self.buffer.advance(self.now)

    @rule(deliveries=st.integers(0, 4), size=st.integers(0, 8))
    def pressure(self, deliveries, size):
        held, held_bytes = self.buffer.held, self.buffer.bytes
        self.buffer.relieve(deliveries, size, self.now)
        assert self.buffer.held <= max(0, held - deliveries)
        assert self.buffer.bytes <= max(0, held_bytes - size)

    @rule(link=st.integers(0, 2))
    def a_link_is_lost(self, link):
        lost, self.links[link] = self.links[link], MemoryLink(self.links[link].epoch + 3)
        mine = {delivery for delivery in self.inside if delivery.link is lost}
        dropped, heirs = self.buffer.drop(lost)
        assert set(dropped) == mine
        assert len(set(dropped)) == len(dropped)
        for old, heir in heirs:
            assert old in dropped
            assert heir in self.heads()
        for delivery in dropped:
            del self.inside[delivery]

    @rule(give_back=st.booleans())
    def shut(self, give_back):
        returned = self.buffer.shut(self.now, give_back_keyed=give_back)
        assert give_back or not returned
        for delivery in returned:
            assert self.inside.pop(delivery) is not None, "without a key nothing is given back"
        assert not self.buffer.groups

    @invariant()
    def look(self):
        if not hasattr(self, "buffer"):
            return
        for batch in self.buffer.take():
            self.look_at(batch)
        held = list(with_followers(self.heads()))
        assert set(held) == set(self.inside)
        assert self.buffer.held == len(held)
        assert self.buffer.bytes == sum(len(delivery.body) for delivery in self.heads())
        for group in self.buffer._groups.values():
            # whatever is due has gone
            assert not self.age or self.now < group.opened + self.age
            assert self.size is None or len(group.deliveries) < self.size

    def look_at(self, batch):
        members = batch.deliveries
        for delivery in with_followers((*members, *batch.controls)):
            assert self.inside.pop(delivery, "nothing") == batch.key
        assert batch.bytes == sum(len(delivery.body) for delivery in members)
        assert self.size is None or len(members) <= self.size
        assert self.limit is None or batch.bytes <= self.limit or len(members) == 1
        reasons = {
            Trigger.SIZE: self.size is not None and len(members) == self.size,
            Trigger.BYTES: self.limit is not None and bool(members),
            Trigger.AGE: bool(self.age) and batch.completed >= batch.opened + (self.age or 0),
            Trigger.IDLE: bool(self.idle),
            Trigger.SENTINEL: bool(batch.controls),
        }
        assert reasons.get(batch.trigger, True), batch.trigger
        assert batch.complete is (batch.trigger in CLOSING)
        if batch.key is None:
            assert batch.part == 1
        else:
            assert batch.part == self.parts.get(batch.key, 0) + 1
            self.parts[batch.key] = 0 if batch.complete else batch.part


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
            if v.fate in {DUPLICATE.fate, Fate.DEAD_LETTER}
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
            self.window.deliver(self.next)
            self.unacked.append(self.next)
            self.next += 1

    @rule(
        which=st.randoms(use_true_random=False), share=st.sampled_from([0.2, 0.6, 1.0]), again=st.booleans()
    )
    def settle(self, which, share, again):
        tags = [tag for tag in self.unacked if which.random() < share]
        which.shuffle(tags)
        asked = [*tags, *list(self.asked)[:2]] if again else tags
        upto, singles = self.window.settle(asked)
        assert upto is None or self.multiple
        self.asked |= set(tags)
        if upto is not None:
            assert upto in self.unacked, "406"
            assert {tag for tag in self.unacked if tag <= upto} <= set(tags), "acked by the way"
            self.unacked = [tag for tag in self.unacked if tag > upto]
        for tag in singles:
            assert tag in self.unacked, "406"
            self.unacked.remove(tag)
        assert not set(tags) & set(self.unacked), "asked for, and not acked"

    @rule(which=st.randoms(use_true_random=False))
    def give_back(self, which):
        tags = [tag for tag in self.unacked if which.random() < 0.3]
        assert self.window.give_back([*tags, *self.asked]) == tags
        self.unacked = [tag for tag in self.unacked if tag not in tags]
        self.asked |= set(tags)

    @invariant()
    def agrees(self):
        if hasattr(self, "window"):
            assert len(self.window) == len(self.unacked)


TestGroups, TestRequests, TestTags = Groups.TestCase, Requests.TestCase, Tags.TestCase
TestGroups.settings = TestRequests.settings = TestTags.settings = STEPS
pytestmark = pytest.mark.timeout(120 + STEPS.max_examples)
