"""What marks and exceptions of the user's function come to, on a whole route without threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aggregator.backoff import Backoff
from aggregator.completion import Size, any_of
from aggregator.correlation import compile_expression
from aggregator.delivery import Settlement
from aggregator.errors import MessageRefusedError, SinkBlockedError
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.pipeline import Limits, Pipeline
from aggregator.sinks.function import BulkRequest, FunctionSink
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.memory import MemoryDelivery, MemoryLink

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[[BulkRequest], Any]


class Route:
    """A pipeline into ``write``, which may be replaced at any time; ``calls``: the ids it was given."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.dead = MemoryDeadLetters(self.clock)
        self.metrics = Metrics()
        self.calls: list[str] = []
        self.write: Write = lambda request: None
        self.pipeline = Pipeline(
            "r",
            intake=Intake(self.clock, id=compile_expression("message_id")),
            completion=any_of(Size(4)),
            sink=FunctionSink(self._call, name="mine:write"),
            dead_letters=self.dead,
            metrics=self.metrics.route("r"),
            limits=Limits(backoff=Backoff(0.1, 30.0)),
            clock=self.clock,
        )
        self.dead.report = self.pipeline.dead_lettered
        self.link = MemoryLink()
        self.pipeline.link_opened(self.link, 1000)
        assert self.pipeline.step()

    def _call(self, request: BulkRequest) -> None:
        self.calls.append("".join(item.id for item in request))
        self.write(request)

    def take(self, names: str) -> None:
        """Take a message for each letter, and do what there is to do now."""
        self.pipeline.accept(
            [
                MemoryDelivery(b"{}", properties={"message_id": name}, link=self.link, tag=name)
                for name in names
            ]
        )
        self.work()

    def work(self) -> None:
        while self.pipeline.step():
            pass

    def wait(self, seconds: float = 60.0) -> None:
        self.clock.advance(seconds)
        self.work()

    @property
    def acked(self) -> str:
        return "".join(self.link.of(Settlement.ACK))

    @property
    def refused(self) -> list[tuple[str, str, str]]:
        return [(entry.delivery.id, entry.reason, entry.detail) for entry in self.dead.waiting]


@pytest.fixture
def route() -> Route:
    return Route()


def test_each_mark_has_its_end(route: Route) -> None:
    def write(request: BulkRequest) -> None:
        if len(request) == 4:
            request.refuse(request[1], "no-such-account", "it was closed")
            request.retry(request[2], "busy")
            request.duplicate(request[3])

    route.write = write
    route.take("abcd")
    assert route.acked == "ad"
    assert route.refused == [("b", "no-such-account", "it was closed")]
    assert route.metrics.totals() == {"r": {"written": 1, "duplicate": 1}}
    route.wait()
    assert route.calls == ["abcd", "c"]
    assert route.acked == "adc"
    route.dead.begin(9)
    route.dead.end(confirmed=True)
    assert route.acked == "adcb"
    reasons = {sample.labels["reason"] for sample in route.metrics.dead_letters.collect()[0].samples}
    assert reasons == {"no-such-account"}


def test_a_refusal_before_an_exception_waits_for_the_call_that_returns(route: Route) -> None:
    def write(request: BulkRequest) -> None:
        request.refuse(request[0], "no-such-account")
        if len(route.calls) < 2:
            raise OSError

    route.write = write
    route.take("abcd")
    assert (route.acked, route.refused) == ("", [])
    route.wait()
    assert route.calls == ["abcd"] * 2
    assert route.acked == "bcd"
    assert route.refused == [("a", "no-such-account", "")]


def test_a_refusal_before_an_exception_that_does_not_come_again_is_none(route: Route) -> None:
    def write(request: BulkRequest) -> None:
        if len(route.calls) == 1:
            request.refuse(request[0], "accounts-not-loaded")
            raise OSError

    route.write = write
    route.take("abcd")
    route.wait()
    assert route.acked == "abcd"
    assert route.refused == []


def test_the_message_at_fault_is_found_by_halves(route: Route) -> None:
    def write(request: BulkRequest) -> None:
        if any(item.id == "c" for item in request):
            raise MessageRefusedError("no-such-account")

    route.write = write
    route.take("abcd")
    assert sorted(route.acked) == ["a", "b", "d"]
    assert route.refused == [("c", "no-such-account", "")]
    assert route.calls == ["abcd", "ab", "cd", "c", "d"]


@pytest.mark.parametrize("by", ["mark", "exception"])
def test_what_is_blocked_is_kept_and_pauses_the_route(route: Route, by: str) -> None:
    def write(request: BulkRequest) -> None:
        if by == "exception":
            raise SinkBlockedError("read-only")
        for item in request:
            request.block(item, "read-only")

    route.write = write
    route.take("abcd")
    route.take("efgh")
    assert route.calls == ["abcd"], "the second request waits for the pause"
    route.wait()
    route.write = lambda request: None
    route.wait()
    assert sorted(route.acked) == [*"abcdefgh"]
    assert route.refused == []


def test_one_that_is_blocked_lets_the_others_of_its_request_go(route: Route) -> None:
    route.write = lambda request: request.block(request[3])
    route.take("abcd")
    route.take("efgh")
    assert route.acked == "abc"
    assert route.calls == ["abcd"]


def test_a_wrong_mark_loses_nothing(route: Route) -> None:
    def write(request: BulkRequest) -> None:
        request.refuse(request[0], "no-such-account")
        if len(route.calls) == 1:
            request.retry(request[0])

    route.write = write
    route.take("abcd")
    assert (route.acked, route.refused) == ("", [])
    route.wait()
    assert route.acked == "bcd"
    assert route.refused == [("a", "no-such-account", "")]


def test_one_that_is_always_put_off_is_given_up_and_no_other(route: Route) -> None:
    def write(request: BulkRequest) -> None:
        for item in request:
            if item.id == "x":
                request.retry(item, "busy")

    route.write = write
    route.take("xabc")
    for _ in range(20):
        route.take("efgh")
        route.wait(100.0)
    assert route.refused == [("x", "retries-exhausted", "busy")]
    assert "x" not in route.acked
