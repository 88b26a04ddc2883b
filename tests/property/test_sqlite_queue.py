"""The queue file against a model: whatever happens in whatever order, no message is lost or out of place."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumers.transports.sqlite_connection import Connection
from consumers.transports.sqlite_errors import LeaseLostError
from consumers.transports.sqlite_settings import Settings
from consumers.transports.sqlite_store import Outgoing

LEASE = 60.0
QUEUES = ("one", "two")


class Time:
    """A clock that goes when it is told to; ``wall`` steps on its own."""

    def __init__(self):
        self.now = 1000.0
        self.wall = 1e9

    def monotonic(self):
        return self.now

    def time(self):
        return self.wall


@dataclass
class Consumer:
    """A connection with an owner; ``held`` is what the model says that it holds, by id."""

    connection: Connection
    owner: object
    held: dict = field(default_factory=dict)
    beaten: float = 0.0
    lost: bool = False


@dataclass
class Message:
    body: bytes
    queue: str
    deliveries: int = 0


class QueueFile(RuleBasedStateMachine):
    """``ready`` and each consumer's ``held`` are the model; the file has to agree."""

    parent: Path

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp(dir=self.parent))
        self.time = Time()
        self.settings = Settings(path=self.folder / "queue.db", synchronous="normal", lease=LEASE)
        self.admin = self.open()
        for queue in QUEUES:
            self.admin.topology.declare_queue(
                queue, durable=True, auto_delete=False, arguments={}, holder=None
            )
        self.ids = {queue: self.admin.topology.queue_id(queue) for queue in QUEUES}
        self.ready = {}
        self.consumers = []
        self.published = 0
        self.settled = set()

    def open(self):
        return Connection(self.settings, clock=self.time)

    def teardown(self):
        for consumer in self.consumers:
            consumer.connection.collect()
        self.admin.collect()
        shutil.rmtree(self.folder)

    def give_back(self, consumer, numbers, *, counted=True):
        for number in numbers:
            message = consumer.held.pop(number)
            message.deliveries -= not counted
            self.ready[number] = message

    @rule(queue=st.sampled_from(QUEUES), count=st.integers(1, 5))
    def publish(self, queue, count):
        bodies = [b"%d" % (self.published + number) for number in range(count)]
        self.published += count
        assert self.admin.store.publish(Outgoing("", queue, b"{}", body) for body in bodies) == []
        query = "SELECT id FROM contents ORDER BY id DESC LIMIT ?"
        numbers = sorted(row[0] for row in self.admin.file.rows(query, (count,)))
        self.ready |= {number: Message(body, queue) for number, body in zip(numbers, bodies, strict=True)}

    @precondition(lambda self: len(self.consumers) < 4)
    @rule()
    def join(self):
        connection = self.open()
        self.consumers.append(Consumer(connection, connection.leases.enter(), beaten=self.time.now))

    def _one(self, data):
        return data.draw(st.sampled_from(self.consumers), label="consumer")

    def _living(self, consumer, act):
        """Do something that needs the lease; tell whether it was still there."""
        try:
            act()
        except LeaseLostError:
            assert consumer.lost
            return False
        assert not consumer.lost
        consumer.beaten = self.time.now
        return True

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), queue=st.sampled_from(QUEUES), limit=st.integers(1, 4))
    def fetch(self, data, queue, limit):
        consumer = self._one(data)
        taken = []
        store = consumer.connection.store
        lease = lambda: taken.extend(store.lease(consumer.owner, self.ids[queue], limit, 1 << 20))  # noqa: E731
        if not self._living(consumer, lease):
            return
        expected = sorted(number for number, each in self.ready.items() if each.queue == queue)[:limit]
        assert [each.id for each in taken] == expected
        for each in taken:
            message = self.ready.pop(each.id)
            assert (each.body, each.deliveries) == (message.body, message.deliveries)
            message.deliveries += 1
            consumer.held[each.id] = message

    def _some(self, data, consumer):
        return data.draw(
            st.lists(st.sampled_from(sorted(consumer.held)), unique=True, min_size=1), label="ids"
        )

    @precondition(lambda self: any(consumer.held for consumer in self.consumers))
    @rule(data=st.data(), how=st.sampled_from(["ack", "reject", "give back", "unseen"]))
    def settle(self, data, how):
        consumer = data.draw(st.sampled_from([each for each in self.consumers if each.held]))
        numbers = self._some(data, consumer)
        store, owner = consumer.connection.store, consumer.owner
        acts = {
            "ack": lambda: store.ack(owner, numbers),
            "reject": lambda: store.reject(owner, numbers),
            "give back": lambda: store.give_back(owner, numbers),
            "unseen": lambda: store.give_back(owner, numbers, counted=False),
        }
        if not self._living(consumer, acts[how]):
            return
        if how in {"ack", "reject"}:
            self.settled |= {consumer.held.pop(number).body for number in numbers}
        else:
            self.give_back(consumer, numbers, counted=how != "unseen")

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def leave(self, data):
        consumer = self._one(data)
        self.consumers.remove(consumer)
        consumer.connection.leases.leave(consumer.owner)
        consumer.connection.close()
        if not consumer.lost:
            self.give_back(consumer, list(consumer.held))

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def die(self, data):
        consumer = self._one(data)
        self.consumers.remove(consumer)
        consumer.connection.collect()
        self.admin.leases.recover()
        if not consumer.lost:
            self.give_back(consumer, list(consumer.held))

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def renew(self, data):
        consumer = self._one(data)
        if consumer.beaten <= self.time.now - LEASE / 4:
            self._living(consumer, consumer.connection.leases.renew)

    @rule(seconds=st.floats(0.1, LEASE))
    def time_passes(self, seconds):
        """An observer looks all the time; who has not beaten for a lease's time is taken over."""
        end = self.time.now + seconds
        while self.time.now < end:
            self.time.now = min(end, self.time.now + LEASE / 8)
            self.admin.leases.recover()
            for consumer in self.consumers:
                self._maybe_lost(consumer)

    def _maybe_lost(self, consumer):
        gone = not self.admin.file.rows("SELECT 1 FROM owners WHERE id = ?", (consumer.owner.number,))
        if gone and not consumer.lost:
            assert self.time.now - consumer.beaten >= LEASE
            consumer.lost = True
            for number in list(consumer.held):
                self.ready[number] = consumer.held.pop(number)
        elif not gone:
            # the observer needs one look to see the beat, and looks every eighth of a lease
            assert self.time.now - consumer.beaten < LEASE * 1.5

    @rule(seconds=st.floats(-1e8, 1e8))
    def the_wall_clock_steps(self, seconds):
        self.time.wall += seconds
        self.admin.leases.recover()

    @precondition(lambda self: self.ready)
    @rule(queue=st.sampled_from(QUEUES))
    def purge(self, queue):
        numbers = [number for number, each in self.ready.items() if each.queue == queue]
        assert self.admin.topology.purge(queue) == len(numbers)
        self.settled |= {self.ready.pop(number).body for number in numbers}

    @invariant()
    def nothing_is_lost(self):
        """Each row is as the model has it: whose it is, how often it was delivered, what it holds."""
        model = {number: (None, each.deliveries, each.body) for number, each in self.ready.items()}
        for consumer in self.consumers:
            owner = consumer.owner.number
            model |= {number: (owner, each.deliveries, each.body) for number, each in consumer.held.items()}
        query = "SELECT id, owner, deliveries, body FROM messages JOIN contents USING (id)"
        assert {number: tuple(row) for number, *row in self.admin.file.rows(query)} == model
        assert self.admin.file.rows("SELECT count(*) FROM contents") == [(len(model),)]
        assert len(model) + len(self.settled) == self.published

    @invariant()
    def counts_agree(self):
        for queue in QUEUES:
            ready = sum(each.queue == queue for each in self.ready.values())
            held = [each for consumer in self.consumers for each in consumer.held.values()]
            unacked = sum(each.queue == queue for each in held)
            assert self.admin.topology.counts(queue)[:2] == (ready, unacked)


QueueFile.TestCase.settings = settings(
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestQueueFile = pytest.mark.timeout(120)(QueueFile.TestCase)


@pytest.fixture(autouse=True)
def _parent(tmp_path):
    """What a killed run leaves behind stands with pytest's folders, which pytest clears away."""
    QueueFile.parent = tmp_path
