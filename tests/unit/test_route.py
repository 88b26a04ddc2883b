"""What a route tells its pipeline, and when pressure may act."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from aggregator.completion import Size, any_of
from aggregator.entrance import CONNECTING_SECONDS
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.pipeline import Pipeline
from aggregator.sinks.function import FunctionSink
from aggregator.testing.memory import MemoryDelivery, MemoryLink
from aggregator.testing.settings import from_arguments
from consumers.route import RunningRoute
from consumers.sources import make_source


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now


class NoLetters:
    pending = 0
    bytes = 0
    failing_since = None

    def submit(self, refused):
        raise AssertionError(refused)

    def drop(self, dead):
        return []


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def written():
    return []


@pytest.fixture
def pipeline(clock, written):
    made = Pipeline(
        "r",
        intake=Intake(clock),
        completion=any_of(Size(20)),
        sink=FunctionSink(lambda items: written.append(len(items))),
        dead_letters=NoLetters(),
        metrics=Metrics(CollectorRegistry()).route("r"),
        clock=clock,
    )
    assert made.step()  # the probe
    return made


def deliver(pipeline, link, count):
    pipeline.accept([MemoryDelivery(b"text", link=link, tag=tag) for tag in range(count)])


def test_the_first_link_is_not_all_that_the_broker_will_send(pipeline, clock, written):
    pipeline.expect(2 * 16)
    first, second = MemoryLink(1), MemoryLink(2)
    pipeline.link_opened(first, 16)
    deliver(pipeline, first, 16)
    assert not pipeline.step()
    pipeline.link_opened(second, 16)
    deliver(pipeline, second, 4)
    assert pipeline.step()
    assert written == [20]


def test_a_link_that_never_comes_is_not_waited_for(pipeline, clock, written):
    pipeline.expect(2 * 16)
    link = MemoryLink(1)
    pipeline.link_opened(link, 16)
    deliver(pipeline, link, 16)
    assert not pipeline.step()
    clock.now += CONNECTING_SECONDS
    assert pipeline.step()
    assert written == [16]


def test_with_all_links_open_pressure_acts_at_once(pipeline, clock, written):
    pipeline.expect(16)
    link = MemoryLink(1)
    pipeline.link_opened(link, 16)
    deliver(pipeline, link, 16)
    assert pipeline.step()
    assert written == [16]


def test_a_route_says_what_the_broker_will_send(pipeline, clock, written):
    route = from_arguments({"broker": "amqp://127.0.0.1:1//", "queue": "q"})
    RunningRoute(
        pipeline,
        source=make_source(route, heartbeat=20.0, on_dead_lettered=print, on_retried=print),
        sink=FunctionSink(print),
        workers=2,
        prefetch=16,
        flushers=1,
        metrics=Metrics(CollectorRegistry()).route("r"),
        clock=clock,
    )
    link = MemoryLink(1)
    pipeline.link_opened(link, 16)
    deliver(pipeline, link, 16)
    assert not pipeline.step()
