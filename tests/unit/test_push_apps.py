"""Several apps by one route: each push to its own gateway, each failure with its own app."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from aggregator.backoff import Backoff
from aggregator.errors import SinkBlockedError, SinkUnavailableError
from aggregator.sinks.base import Fate, Limits, Verdict
from aggregator.sinks.push import AppsSink
from aggregator.testing.clock import VirtualClock
from tests.pushes import PushItem, address, note, pushes, told


class Gateway:
    """A sink that takes everything unless it is told to fail."""

    def __init__(self):
        self.limits = Limits(1000, 10_000, 2)
        self.fails = None
        self.verdict = None
        self.opened = 0
        self.got = []
        self.together = None

    def open(self):
        self.opened += 1
        if self.fails:
            raise self.fails

    def write(self, items):
        if self.together:
            self.together.wait(10)
        if self.fails:
            raise self.fails
        self.got += [item.address.device for item in items]
        return self.verdict and [self.verdict] * len(items)

    def close(self):
        self.opened = 0

    def where(self):
        return "somewhere"

    def count_in(self, metrics):
        self.metrics = metrics


@pytest.fixture
def sinks():
    return {("apns", "a"): Gateway(), ("apns", "b"): Gateway(), ("fcm", "a"): Gateway()}


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def sink(sinks, clock):
    sink = AppsSink(sinks, Path("apps.toml"), backoff=Backoff(10, 10), clock=clock)
    sink.open()
    yield sink
    sink.close()


def mixed():
    return [*pushes(2, app="a"), *pushes(2, app="b", start=2), *pushes(2, platform="fcm", app="a", start=4)]


def test_each_goes_to_its_own(sink, sinks):
    assert told(sink, mixed()) == {"written": 6}
    assert [gateway.got for gateway in sinks.values()] == [["d0", "d1"], ["d2", "d3"], ["d4", "d5"]]


def test_the_verdicts_stand_in_their_items_places(sink, sinks):
    sinks["apns", "b"].verdict = Verdict(Fate.REFUSED, "Unregistered")
    first, second = pushes(3, app="a"), pushes(3, app="b", start=3)
    items = [item for pair in zip(first, second, strict=True) for item in pair]
    fates = [verdict.fate for verdict in sink.write(items)]
    assert fates == [Fate.WRITTEN, Fate.REFUSED] * 3


@pytest.mark.parametrize("fault", [SinkUnavailableError("away"), SinkBlockedError("bad key")])
def test_one_that_fails_keeps_its_own_back_and_rests(sink, sinks, clock, fault):
    sinks["apns", "b"].fails = fault
    assert told(sink, mixed()) == {"written": 4, "retry app-fails": 2}
    sinks["apns", "b"].fails = None
    assert told(sink, mixed()) == {"written": 4, "retry app-fails": 2}, "it rests"
    clock.advance(10)
    assert told(sink, mixed()) == {"written": 6}


def test_a_block_of_one_pauses_no_other(sink, sinks, clock):
    sinks["apns", "b"].verdict = Verdict(Fate.BLOCKED, "InvalidProviderToken")
    assert told(sink, mixed()) == {"written": 4, "retry InvalidProviderToken": 2}
    assert told(sink, mixed()) == {"written": 4, "retry app-fails": 2}


def test_unknown_apps_are_dead_letters(sink):
    items = [*pushes(1, app="c"), *pushes(1, platform="fcm", app="b"), *pushes(1)]
    assert told(sink, items) == {"dead_letter unknown-app": 3}
    verdict = sink.write(pushes(1, app="c"))[0]
    assert verdict.detail == "apps.toml has a, b for apns"


def test_the_only_app_of_a_platform_need_not_be_named(sink, sinks):
    assert told(sink, pushes(1, platform="fcm")) == {"written": 1}
    assert sinks["fcm", "a"].got == ["d0"]


def test_a_message_without_a_route_is_read(sink):
    item = PushItem(address(0, note()))
    item.address, item.document = None, b'{"platform":"web"}'
    assert told(sink, [item]) == {"dead_letter bad-push": 1}


def test_apps_are_pushed_side_by_side(sink, sinks):
    together = threading.Barrier(3)
    for gateway in sinks.values():
        gateway.together = together
    assert told(sink, mixed()) == {"written": 6}


def test_one_that_does_not_open_is_opened_when_it_is_needed(sinks, clock):
    sinks["apns", "b"].fails = SinkUnavailableError("away")
    sink = AppsSink(sinks, Path("apps.toml"), backoff=Backoff(10, 10), clock=clock)
    sink.open()
    sinks["apns", "b"].fails = None
    clock.advance(10)
    assert told(sink, mixed()) == {"written": 6}
    assert sinks["apns", "b"].opened == 2
    sink.close()


@pytest.mark.parametrize(
    ("one", "others", "raised"),
    [
        (SinkBlockedError("x"), SinkBlockedError("x"), SinkBlockedError),
        (SinkUnavailableError("x"), SinkBlockedError("x"), SinkUnavailableError),
    ],
)
def test_none_that_opens_is_an_error(sinks, one, others, raised):
    for gateway in sinks.values():
        gateway.fails = others
    sinks["fcm", "a"].fails = one
    with pytest.raises(raised):
        AppsSink(sinks, Path("apps.toml")).open()


def test_nothing_is_written_before_it_is_opened(sinks):
    with pytest.raises(SinkUnavailableError):
        AppsSink(sinks, Path("apps.toml")).write(mixed())


def test_it_counts_in_each(sink, sinks):
    sink.count_in("metrics")
    assert {gateway.metrics for gateway in sinks.values()} == {"metrics"}
