"""A route before a real HTTP server that takes more, or less, at once than it did a while ago."""

from __future__ import annotations

from collections import Counter
from threading import Condition, Event, Thread

import orjson
import pytest

from aggregator.backoff import Backoff
from aggregator.clock import SYSTEM_CLOCK
from aggregator.completion import Size, any_of
from aggregator.correlation import compile_expression
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.pipeline import Limits, Pipeline
from aggregator.sinks import from_url
from aggregator.testing.broker import MemoryBroker
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.faults import Faults
from tests.elasticsearch_proxy import JSON, proxy
from tests.models import ModelLink

pytestmark = pytest.mark.integration

MOST, PREFETCH = 16, 200
SERVICE = 0.03
SECONDS = 60.0
FULL = orjson.dumps({"error": {"type": "es_rejected_execution_exception"}, "status": 429})


class Server:
    """Answers so many requests at once, each after a while; with too many waiting it throttles."""

    def __init__(self, slots, queue):
        self.slots, self.queue = slots, queue
        self.busy = self.waiting = self.most = self.throttled = 0
        self.written = Counter()
        self._changed = Condition()
        self._never = Event()

    def answer(self, status, content_type, content):
        with self._changed:
            self.most = max(self.most, self.busy + self.waiting + 1)
            if self.busy >= self.slots and self.waiting >= self.queue:
                self.throttled += 1
                return 429, JSON, FULL
            self.waiting += 1
            self._changed.wait_for(lambda: self.busy < self.slots)
            self.waiting -= 1
            self.busy += 1
        self._never.wait(SERVICE)
        with self._changed:
            self.busy -= 1
            self._changed.notify_all()
            self.written.update(item["create"]["_id"] for item in orjson.loads(content)["items"])
        return status, content_type, content


class Running:
    """A pipeline with as many flush threads as may be needed, and a queue that is never empty."""

    def __init__(self, url):
        self.sink = from_url(f"elasticsearch+{url}/tasks")
        self.sink.open()
        self.metrics = Metrics()
        self.faults = Faults()
        self.broker = MemoryBroker(self.faults)
        dead = MemoryDeadLetters(SYSTEM_CLOCK)
        self.pipeline = Pipeline(
            "r",
            intake=Intake(SYSTEM_CLOCK, id=compile_expression("message_id")),
            completion=any_of(Size(2)),
            sink=self.sink,
            dead_letters=dead,
            metrics=self.metrics.route("r"),
            limits=Limits(
                request_items=2, concurrency=MOST, adaptive_concurrency=True, backoff=Backoff(0.01, 0.05)
            ),
        )
        dead.report = self.pipeline.dead_lettered
        self.link = self.broker.connect(PREFETCH, self._link)
        self.woken = Event()
        self.link.wake = self.woken.set
        self.pipeline.link_opened(self.link, PREFETCH)
        self.threads = [Thread(target=self.pipeline.run) for _ in range(MOST)]

    @staticmethod
    def _link(channel, epoch):
        return ModelLink(channel, epoch, multiple=True, clock=SYSTEM_CLOCK)

    def value(self, name):
        return self.metrics.registry.get_sample_value(f"aggregator_{name}", {"route": "r"})

    def work_until(self, reached):
        """Be the worker until the limit is as wanted."""
        give_up = SYSTEM_CLOCK.monotonic() + SECONDS
        while not reached(self.value("requests_limit")):
            assert SYSTEM_CLOCK.monotonic() < give_up, f"the limit is {self.value('requests_limit')}"
            while len(self.broker.ready) < PREFETCH:
                self.broker.publish(b"{}", properties={"message_id": f"m{len(self.broker.published)}"})
            self._turn()

    def finish(self):
        """Have what is there written and acked."""
        give_up = SYSTEM_CLOCK.monotonic() + SECONDS
        while len(self.broker.acked) < len(self.broker.published):
            assert SYSTEM_CLOCK.monotonic() < give_up, f"{len(self.broker.acked)} acked"
            self._turn()

    def _turn(self):
        if found := self.broker.deliver(self.link, PREFETCH):
            self.pipeline.accept(found)
        self.woken.wait(0.05)
        self.woken.clear()
        self.link.perform(lambda _seconds: None)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.pipeline.close()
        for thread in self.threads:
            thread.join(SECONDS)
        self.sink.close()


def test_the_limit_follows_the_server():
    server = Server(slots=12, queue=40)
    with proxy(change=server.answer) as fake, Running(fake.url) as running:
        running.work_until(lambda limit: limit >= 8)
        server.slots = 1
        running.work_until(lambda limit: limit <= 3)
        assert not server.throttled, "it fell because more brought nothing"
        server.slots = 12
        running.work_until(lambda limit: limit >= 8)
        server.slots, server.queue = 1, 1
        running.work_until(lambda limit: limit <= 2)
        assert server.throttled
        server.slots = 12
        running.work_until(lambda limit: limit >= 8)
        running.finish()
        assert running.value("requests_under_way") == 0
    assert server.most <= MOST
    assert not running.faults, running.faults[:5]
    ids = {message.properties["message_id"] for message in running.broker.published}
    assert server.written == Counter(dict.fromkeys(ids, 1))
