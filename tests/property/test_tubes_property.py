"""Recipients with random answers, lost sessions, lost answers, partings: each gets its last word once.

Or its task goes back without exactly those that have it. What may be sent twice is what was on its way
to the gateway while its task was given back.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from aggregator.assembly import make_pipeline
from aggregator.errors import SinkUnavailableError
from aggregator.metrics import Metrics
from aggregator.sinks.base import Fate, Limits, Verdict
from aggregator.testing.clock import VirtualClock
from aggregator.testing.settings import from_arguments
from consumers.tubes import Memory
from tests.tube_server import TubeServer, burials_of, leashed

OK = Verdict(Fate.WRITTEN)
GONE = Verdict(Fate.REFUSED, "Unregistered")
BUSY = Verdict(Fate.RETRY, "busy")
WRONG = Verdict(Fate.DEAD_LETTER, "BadTopic")
WORKERS = 2
TURNS = 200


class Gateway:
    limits = Limits(items=4)

    def __init__(self, random):
        self.random = random
        self.words = [OK, OK, OK, GONE, BUSY, WRONG]
        self.said = Counter()
        self.under_way = set()
        self.uncertain = set()
        self.during = []

    def open(self):
        pass

    def write(self, items):
        self.under_way = {item.address.device for item in items}
        while self.during:
            self.during.pop()()
        self.under_way = set()
        if self.words[-1] is not OK and self.random.random() < 0.1:
            raise SinkUnavailableError("away")
        verdicts = [self.random.choice(self.words) for _ in items]
        for item, word in zip(items, verdicts, strict=True):
            if word is OK or word is GONE:
                self.said[item.address.device] += 1
        return verdicts

    def close(self):
        pass

    def where(self):
        return ""


class World:
    def __init__(self, random):
        self.random = random
        self.clock = VirtualClock()
        self.server = TubeServer(self.clock)
        self.gateway = Gateway(random)
        self.names = count()
        self.put = []
        holder = {}
        burials = burials_of(holder)
        metrics = Metrics(CollectorRegistry()).route("r")
        settings_ = {"broker": "tarantool://h:1/", "queue": "apns", "aggregate": "push", "breaker_window": 0,
                     "concurrency": 1, "delivery_limit": 19, "isolate_at": "off"}  # fmt: skip
        route = from_arguments(settings_)
        self.pipeline = holder["pipeline"] = make_pipeline(
            route, sink=self.gateway, dead_letters=burials, metrics=metrics, clock=self.clock
        )
        memory = Memory()
        self.workers = [
            leashed(self.server, self.pipeline, burials, metrics, self.clock, memory=memory, prefetch=3)
            for _ in range(WORKERS)
        ]
        self.pipeline.step()

    def task(self, size):
        devices = [str(next(self.names)) for _ in range(size)]
        self.put += devices
        recipients = [[device, f"t{device}"] for device in devices]
        self.server.put({"campaign": "c", "platform": "apns", "notification": {"payload": {"a": 1}},
                         "recipients": recipients})  # fmt: skip

    def lose(self, worker):
        if worker.link is not None:
            worker.lose()

    def fail(self, worker, calls, *, after):
        if worker.session is not None:
            worker.session.fail_at, worker.session.after = calls, after

    def part(self, worker):
        if worker.link is None:
            return
        worker.session.fail_at = None
        mine = [delivery.tag for delivery in worker.link.taken]
        self.gateway.uncertain |= self.gateway.under_way
        worker.part()
        if self.gateway.under_way:
            return
        for task in (self.server.tasks[tag] for tag in mine if tag in self.server.tasks):
            if task.state == "ready":
                left = devices(task)
                assert left, "a task without recipients went back"
                assert not [d for d in left if self.gateway.said[d] and d not in self.gateway.uncertain]

    def settle(self):
        """Let all be well until nothing is left to be done."""
        self.gateway.words = [OK]
        for worker in self.workers:
            self.fail(worker, None, after=False)
        for _ in range(TURNS):
            for worker in self.workers:
                worker.step()
            while self.pipeline.step():
                pass
            if self.pipeline.idle and len(self.server.of("buried")) == len(self.server.tasks):
                return
            self.clock.advance(31)
        raise AssertionError(f"still there: {self.server.tasks} {self.pipeline.state}")


def devices(task):
    return [recipient[0] for recipient in task.data["recipients"]]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["put", "step", "step", "flush", "flush", "lose", "fail", "part", "advance", "during"]
        ),
        st.integers(0, WORKERS - 1),
        st.integers(0, 6),
    ),
    min_size=25,
    max_size=60,
)


def apply(world, operation):
    what, which, number = operation
    worker = world.workers[which]
    if what == "put":
        world.task(1 + number)
    elif what == "step":
        worker.step()
    elif what == "flush":
        world.pipeline.step()
    elif what == "lose":
        world.lose(worker)
    elif what == "fail":
        world.fail(worker, number // 2, after=bool(number % 2))
    elif what == "part":
        world.part(worker)
    elif what == "advance":
        world.clock.advance(10.0**number / 1000)
    elif what == "during":
        other = world.workers[(which + 1) % WORKERS]
        acts = [lambda: world.lose(worker), lambda: world.part(worker), other.step]
        world.gateway.during = [acts[number % 3], other.step]


@given(OPERATIONS, st.integers(0, 2**32))
@settings(deadline=None)
def test_each_recipient_has_its_last_word_once(operations, seed):
    world = World(Random(seed))
    for operation in operations:
        apply(world, operation)
    world.settle()
    said, uncertain = world.gateway.said, world.gateway.uncertain
    buried = [device for task in world.server.of("buried") for device in devices(task)]
    for device in world.put:
        if device not in uncertain:
            assert said[device] + buried.count(device) == 1, (device, said[device], buried)
        else:
            assert said[device] + buried.count(device) >= 1
    counted = world.server.counts.get("sent", 0) + world.server.counts.get("Unregistered", 0)
    if not uncertain:
        assert counted == sum(said.values())
