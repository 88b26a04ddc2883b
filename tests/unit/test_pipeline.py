"""A route as a whole, without threads: what is acked when, outages, refusals, pressure, its end."""

from __future__ import annotations

import gc
import weakref
from math import inf
from threading import Thread

import pytest
import structlog
from structlog.testing import capture_logs

from aggregator.backoff import Backoff
from aggregator.completion import Age, Size, any_of
from aggregator.correlation import compile_expression, compile_match
from aggregator.delivery import Settlement
from aggregator.errors import (
    RequestRefusedError,
    SinkBlockedError,
    SinkUnavailableError,
    UnrecoverableError,
)
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.pipeline import Limits, Pipeline
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.standing import RouteState
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.memory import MemoryDelivery, MemoryLink
from aggregator.testing.sink import MemorySink

RETRY = Verdict(Fate.RETRY, "busy", status=429)
BAD = b"\xff\xfe\xff"


@pytest.fixture(autouse=True)
def logged():
    with capture_logs() as entries:
        yield entries
    structlog.reset_defaults()


class Route:
    """A pipeline between an in-memory link and a model of its sink and its dead-letter queue."""

    def __init__(self, *conditions, keyed=False, grace=0.0, prefetch=1000, start=True, **limits):
        self.clock = VirtualClock()
        self.sink = MemorySink()
        self.dead = MemoryDeadLetters(self.clock)
        self.metrics = Metrics()
        limits.setdefault("backoff", Backoff(0.1, 30.0))
        self.pipeline = Pipeline(
            "r",
            intake=Intake(
                self.clock,
                id=compile_expression("message_id"),
                key=compile_expression("header:key") if keyed else None,
                is_sentinel=compile_match("type=end") if keyed else None,
                sentinel_count="members",
            ),
            completion=any_of(*(conditions or [Size(2)])),
            sink=self.sink,
            dead_letters=self.dead,
            metrics=self.metrics.route("r"),
            limits=Limits(**limits),
            grace=grace,
            clock=self.clock,
        )
        self.dead.report = self.pipeline.dead_lettered
        self.prefetch = prefetch
        self.link = self.connect()
        if start:
            assert self.pipeline.step()

    def connect(self):
        link = MemoryLink()
        self.pipeline.link_opened(link, self.prefetch)
        return link

    def lose(self, link):
        link.alive = False
        self.pipeline.link_lost(link)

    def message(self, body=b"text", *, id_=None, key=None, link=None, again=False, end=None):
        properties = {"message_id": id_} if id_ else {}
        headers = {"key": key} if key else {}
        if end is not None:
            properties["type"] = "end"
            headers |= {} if end is ... else {"members": end}
        link = link or self.link
        return MemoryDelivery(body, properties=properties, headers=headers, link=link, redelivered=again)

    def accept(self, *deliveries):
        self.pipeline.accept(deliveries)
        return deliveries

    def messages(self, count, **options):
        return self.accept(*(self.message(**options) for _ in range(count)))

    def work(self):
        steps = 0
        while self.pipeline.step():
            steps += 1
        return steps

    def publish(self, *, confirmed=True):
        self.dead.begin(10_000)
        self.dead.end(confirmed=confirmed)

    @property
    def totals(self):
        return self.metrics.totals().get("r", {})

    @property
    def acked(self):
        return self.link.of(Settlement.ACK)


def fails(error):
    def decide(_items):
        raise error

    return decide


# ── the plain way ──


def test_what_is_settled_is_let_go_at_once():
    """Without the collector of circles: it costs too much to be run often, and bodies are large."""
    route = Route(Size(20), keyed=True, request_items=20)
    mine = b"nobody else's"
    gc.disable()
    try:
        route.messages(40, body=mine, key="a", id_="1")
        route.accept(route.message(BAD + mine, key="b"), route.message(mine, key="b", end=1))
        route.work()
        route.publish()
        assert route.pipeline.idle
        route.link.settled.clear()
        route.dead.published.clear()
        held = [each for each in gc.get_objects() if isinstance(each, MemoryDelivery)]
        assert not [each for each in held if mine in each.body]
    finally:
        gc.enable()


class Body:
    """A request's body: bytes are not to be watched."""


@pytest.mark.parametrize("how", ["mapped", "chained", "a stranger's"])
def test_what_a_request_that_failed_was_made_of_is_let_go_at_once(how):
    """Not when the collector looks for circles: while a sink is away it has no reason to."""
    route = Route(Size(20), request_items=20)
    known = []

    def send(body):
        if how == "chained":
            try:
                body.none()
            except AttributeError as exc:
                raise SinkUnavailableError("away") from exc
        raise SinkUnavailableError("away") if how == "mapped" else OSError("away")

    def decide(_items):
        body = Body()
        known.append(weakref.ref(body))
        send(body)

    route.sink.decide = decide
    gc.disable()
    try:
        route.messages(20)
        assert route.work() == 1
        assert [each() for each in known] == [None]
    finally:
        gc.enable()


def test_40_messages_at_size_20_are_two_batches_and_are_acked_after_them():
    route = Route(Size(20), request_items=20)
    deliveries = route.messages(40)
    assert route.acked == []
    assert route.work() == 2
    assert [len(request) for request in route.sink.requests] == [20, 20]
    assert sorted(route.acked) == sorted(delivery.tag for delivery in deliveries)
    assert route.totals == {"written": 40}
    assert route.pipeline.idle


def test_nothing_is_acked_before_the_write_has_returned():
    route = Route()
    seen = []
    route.sink.decide = lambda items: seen.append(list(route.acked))
    route.messages(2)
    route.work()
    assert seen == [[]]
    assert len(route.acked) == 2


def test_each_verdict_settles_its_own_delivery():
    route = Route(Size(4))
    written, known, busy, dead = route.messages(4)
    verdicts = [WRITTEN, DUPLICATE, RETRY, Verdict(Fate.DEAD_LETTER, "mapping", "why", 400)]
    route.sink.decide = lambda items: verdicts
    assert route.work() == 1
    assert sorted(route.acked) == [written.tag, known.tag]
    (letter,) = route.dead.waiting
    assert (letter.delivery, letter.reason, letter.status, letter.attempts) == (dead, "mapping", 400, 1)
    route.publish(confirmed=False)
    assert dead.tag not in route.acked, "not before it is safe"
    route.publish()
    assert dead.tag in route.acked
    assert not route.pipeline.idle
    route.sink.decide = lambda items: None
    route.clock.advance(1)
    route.work()
    assert busy.tag in route.acked
    assert route.totals == {"written": 2, "duplicate": 1, "dead_lettered": 1}
    assert route.pipeline.idle


def test_what_cannot_become_a_document_is_refused_and_its_neighbours_are_written():
    route = Route(Size(3))
    good, bad, other = route.accept(route.message(), route.message(BAD), route.message())
    route.work()
    assert [entry.delivery for entry in route.dead.waiting] == [bad]
    assert sorted(route.acked) == [good.tag, other.tag]
    assert len(route.sink.requests[0]) == 2


def test_a_request_of_which_nothing_is_left_never_reaches_the_sink():
    route = Route(Size(1))
    route.accept(route.message(BAD))
    route.work()
    assert route.sink.requests == []
    assert len(route.dead.waiting) == 1


def test_a_trial_of_which_nothing_is_left_leaves_the_route_running():
    route = Route(Size(1), request_items=1)
    route.messages(1)
    route.sink.decide = fails(SinkUnavailableError("away"))
    route.work()
    route.accept(route.message(BAD))
    route.messages(1)
    route.sink.decide = lambda items: None
    route.clock.advance(60)
    route.work()
    assert route.totals == {"written": 2}
    assert len(route.dead.waiting) == 1


def test_a_reply_of_the_wrong_length_is_no_reply():
    route = Route()
    deliveries = route.messages(2)
    route.sink.decide = lambda items: [WRITTEN]
    route.work()
    assert route.acked == []
    route.sink.decide = lambda items: [DUPLICATE, WRITTEN]
    route.clock.advance(1)
    route.work()
    assert sorted(route.acked) == [delivery.tag for delivery in deliveries]
    assert route.sink.requests[0] == route.sink.requests[1], "sent again with the same ids"


def test_a_fault_of_ours_stops_the_route_and_says_so(logged):
    route = Route()
    route.messages(2)
    route.sink.write = lambda items: ["nonsense", None]
    route.work()
    assert route.pipeline.state is RouteState.STOPPED
    assert "flush_failed" in [entry["event"] for entry in logged]
    assert route.acked == []
    assert not route.pipeline.consuming


def test_no_log_line_holds_a_strangers_words(logged):
    route = Route()
    route.messages(2)
    route.sink.decide = fails(RuntimeError("the body: secret"))
    route.work()
    assert "RuntimeError" in repr(logged)
    assert "secret" not in repr(logged)


def test_a_sink_that_fails_for_another_reason_is_told_of_again(logged):
    """A lost connection hides the expired certificate that the next one meets."""
    route = Route(Size(20), request_items=20)
    route.messages(20)
    for error in (
        SinkUnavailableError("connection reset"),
        SinkUnavailableError("refused"),
        SinkBlockedError("TLS: broken off"),
        SinkBlockedError("TLS: certificate has expired"),
        SinkBlockedError("TLS: certificate has expired"),
    ):
        route.sink.decide = fails(error)
        route.work()
        route.clock.advance(60)
    told = [entry["problem"] for entry in logged if entry["event"] == "sink_refuses"]
    assert told == [
        "SinkUnavailable: connection reset",
        "SinkBlocked: TLS: broken off",
        "SinkBlocked: TLS: certificate has expired",
    ]


def test_a_batch_is_one_line(logged):
    route = Route(Size(50))
    route.messages(50)
    route.work()
    (line,) = (entry for entry in logged if entry["event"] == "batch")
    assert (line["messages"], line["trigger"], line["written"], line["complete"]) == (50, "size", 50, True)


# ── redeliveries ──


def test_a_copy_of_what_is_settled_is_acked_and_not_written_again():
    route = Route(Size(1))
    route.accept(route.message(id_="a"))
    route.work()
    route.lose(route.link)
    other = route.connect()
    (again,) = route.accept(route.message(id_="a", link=other, again=True))
    route.work()
    assert other.of(Settlement.ACK) == [again.tag]
    assert len(route.sink.requests) == 1
    assert route.totals == {"written": 1, "duplicate": 1}


def test_a_copy_of_what_is_under_way_settles_by_its_verdict():
    route = Route(Size(1))
    other, copies = route.connect(), []

    def decide(_items):
        route.lose(route.link)
        copies.extend(route.accept(route.message(id_="a", link=other, again=True)))

    route.sink.decide = decide
    route.accept(route.message(id_="a"))
    route.work()
    assert other.of(Settlement.ACK) == [copies[0].tag]
    assert route.acked == []
    assert len(route.sink.requests) == 1
    assert route.totals == {"written": 1, "given_back": 1}


def test_a_copy_of_what_is_held_takes_its_place():
    route = Route(Size(2))
    route.accept(route.message(id_="a"))
    route.link.alive = False  # and the copy comes before the worker has said so
    other = route.connect()
    (again,) = route.accept(route.message(id_="a", link=other, again=True))
    assert route.pipeline._buffer.held == 1
    route.pipeline.link_lost(route.link)
    (last,) = route.messages(1, link=other)
    route.work()
    assert sorted(other.of(Settlement.ACK)) == [again.tag, last.tag]
    assert route.totals == {"given_back": 1, "written": 2}


def test_where_a_copy_may_be_another_message_both_are_acked():
    route = Route(Size(2))
    (twin,) = route.accept(route.message(id_="a"))
    other = route.connect()
    (again,) = route.accept(route.message(id_="a", link=other, again=True))
    (last,) = route.messages(1)
    route.work()
    assert sorted(route.acked) == [twin.tag, last.tag]
    assert other.of(Settlement.ACK) == [again.tag]
    assert route.pipeline.idle


def test_the_same_published_twice_is_written_twice():
    route = Route(Size(2))
    route.accept(route.message(id_="a"), route.message(id_="a"))
    route.work()
    assert route.sink.requests == [["a"], ["a"]]
    assert len(route.acked) == 2


def test_what_failed_while_its_link_was_lost_is_not_tried_for_ever():
    route = Route(Size(1))

    def decide(_items):
        route.lose(route.link)
        raise SinkUnavailableError("away")

    route.sink.decide = decide
    route.accept(route.message(id_="a"))
    route.work()
    assert route.pipeline.idle
    assert route.pipeline._outbox.waiting() == []
    assert route.totals == {"given_back": 1}
    other = route.connect()
    route.sink.decide = lambda items: None
    route.clock.advance(60)
    route.accept(route.message(id_="a", link=other, again=True))
    route.work()
    assert route.totals == {"given_back": 1, "written": 1}


def test_a_copy_that_comes_while_the_verdict_is_noted_is_settled_too():
    """It comes on another thread, at the worst moment: after the first item was looked at."""
    route = Route(Size(2))
    other, threads = route.connect(), []
    (copy,) = [route.message(id_="a", link=other, again=True)]

    class Second(MemoryDelivery):
        __slots__ = ()

        @property
        def follower(self):
            # asked for when the verdict is noted, after the first item
            if route.sink.requests and not threads:
                threads.append(Thread(target=route.accept, args=(copy,)))
                threads[0].start()
                threads[0].join(0.2)  # with the lock held, it has to wait

        @follower.setter
        def follower(self, _copy):
            pass

    second = Second(b"text", properties={"message_id": "b"}, link=route.link)
    route.accept(route.message(id_="a"), second)
    route.work()
    threads[0].join(10)
    assert other.of(Settlement.ACK) == [copy.tag]


# ── links ──


def test_what_a_lost_link_brought_is_counted_as_given_back():
    route = Route(Size(5), prefetch=10)
    other = route.connect()
    route.messages(2)
    route.messages(2, link=other)
    route.lose(route.link)
    assert route.totals == {"given_back": 2}
    route.messages(3, link=other)
    route.work()
    assert route.totals == {"given_back": 2, "written": 5}
    assert len(other.of(Settlement.ACK)) == 5


def test_letters_of_a_lost_link_are_forgotten_and_counted():
    route = Route(Size(1))
    route.accept(route.message(BAD, id_="a"), route.message(BAD))
    route.work()
    route.lose(route.link)
    assert route.dead.pending == 0
    assert route.totals == {"given_back": 2}
    other = route.connect()
    (again,) = route.accept(route.message(BAD, id_="a", link=other, again=True))
    route.work()
    route.publish()
    assert other.of(Settlement.ACK) == [again.tag]


def test_a_link_may_be_lost_twice():
    route = Route()
    route.lose(route.link)
    route.lose(route.link)
    assert route.pipeline.idle


def test_an_id_that_a_lost_link_held_is_free_at_once():
    route = Route(Size(1), request_items=1)
    other = route.connect()
    route.sink.decide = fails(SinkUnavailableError("away"))
    route.accept(route.message(id_="a"))
    route.work()
    route.accept(route.message(b"other", id_="a", link=other))
    route.lose(route.link)
    route.sink.decide = lambda items: None
    route.clock.advance(60)
    route.work()
    assert len(other.of(Settlement.ACK)) == 1
    assert route.pipeline.idle


# ── pressure ──


def test_when_all_that_comes_is_held_the_oldest_groups_go():
    route = Route(Size(100), keyed=True, prefetch=8)
    for key in "abcdefg":
        route.messages(1, key=key)
    assert route.work() == 0
    route.messages(1, key="h")
    route.work()
    assert len(route.acked) == 1, "an eighth"
    assert route.acked[0] == 1


def test_pressure_waits_for_what_is_under_way():
    route = Route(Size(2), prefetch=3)
    seen = []

    def decide(_items):
        route.messages(1)
        seen.append(route.pipeline._buffer.held)

    route.messages(2)
    route.sink.decide = decide
    route.pipeline.step()
    assert seen == [1]


def test_pressure_waits_for_workers_that_still_connect():
    route = Route(Size(100), prefetch=2)
    route.pipeline.expect(4)
    route.messages(2)
    assert route.work() == 0
    route.clock.advance(2.5)
    assert route.work() == 1


def test_without_a_link_there_is_no_pressure():
    route = Route(Size(100), prefetch=1)
    other = route.connect()
    route.messages(1)
    route.lose(other)
    assert route.pipeline._wake_at(route.clock.monotonic()) <= route.clock.monotonic()
    assert route.work() == 1, "what is left is all that will come"


def test_bytes_are_bounded():
    route = Route(Size(1000), held_bytes=80)
    route.messages(1, body=b"x" * 79)
    assert route.pipeline.has_room
    route.messages(1, body=b"x" * 10)
    assert not route.pipeline.has_room
    route.work()
    assert route.pipeline.has_room
    assert len(route.acked) == 2


def test_letters_count_for_pressure():
    route = Route(Size(100), prefetch=3)
    route.messages(2)
    assert route.work() == 0
    route.pipeline._settler.refuse([])  # nothing is nothing
    route.accept(MemoryDelivery(b"x", headers={"x-delivery-count": 15}, link=route.link, redelivered=True))
    assert len(route.dead.waiting) == 1
    assert route.work() == 1


# ── sentinels ──


def test_a_sentinel_is_acked_after_its_group_and_not_written():
    route = Route(Age(50), keyed=True)
    (sentinel,) = route.accept(route.message(b"end", key="k", end=2))
    seen = []
    route.sink.decide = lambda items: seen.append(sentinel.tag in route.acked)
    members = route.messages(2, key="k")
    route.work()
    assert seen == [False]
    assert sorted(route.acked) == sorted([sentinel.tag, *(member.tag for member in members)])
    assert len(route.sink.stored) == 2
    assert route.totals == {"written": 2, "control": 1}


def test_a_late_and_a_repeated_sentinel_are_acked_and_counted():
    route = Route(Age(5), keyed=True)
    route.accept(route.message(b"end", key="k", end=...), route.message(b"end", key="k", end=...))
    route.accept(route.message(b"end", key="k", end=3))
    route.clock.advance(5)
    route.work()
    assert route.totals == {"control": 3}
    assert route.pipeline.idle


def test_a_sentinel_goes_back_with_its_group():
    route = Route(Age(50), keyed=True)
    other = route.connect()
    route.sink.decide = fails(SinkUnavailableError("away"))
    route.accept(*(route.message(id_=id_, key="k") for id_ in "ab"))
    (sentinel,) = route.accept(route.message(b"end", id_="end", key="k", end=2, link=other))
    route.work()
    route.lose(route.link)
    assert other.of(Settlement.GIVE_BACK) == [sentinel.tag]
    assert other.of(Settlement.ACK) == []
    assert route.totals == {"given_back": 3}
    # and all of them come again
    route.sink.decide = lambda items: None
    again = [route.message(id_=id_, key="k", link=other, again=True) for id_ in "ab"]
    end = route.message(b"end", id_="end", key="k", end=2, link=other, again=True)
    route.clock.advance(60)
    route.accept(*again, end)
    route.work()
    assert sorted(other.of(Settlement.ACK)) == [delivery.tag for delivery in (*again, end)]


# ── the sink is away ──


def test_nothing_is_consumed_before_the_sink_answers():
    route = Route(start=False)
    route.sink.up = False
    assert not route.pipeline.consuming
    for _ in range(5):
        assert route.pipeline.step()
        assert not route.pipeline.step(), "not before the pause is over"
        assert route.pipeline.state is RouteState.WAITING
        assert "away" in route.pipeline.reason
        route.clock.advance(60)
    route.sink.up = True
    route.work()
    assert route.pipeline.state is RouteState.RUNNING
    assert route.pipeline.wait_until_consuming(0)


def test_a_sink_that_will_never_do_stops_the_route():
    route = Route(start=False)

    def never():
        raise UnrecoverableError("wrong version")

    route.sink.open = never
    route.work()
    assert (route.pipeline.state, route.pipeline.reason) == (RouteState.STOPPED, "wrong version")


@pytest.mark.parametrize("error", [SinkUnavailableError("away"), SinkBlockedError("read-only")])
def test_a_long_outage_gives_everything_back_once_and_then_probes(error):
    route = Route(Size(2), ack_deadline=100.0, prefetch=10)
    route.sink.decide = fails(error)
    route.messages(3)
    while route.pipeline.state is RouteState.RUNNING:
        assert route.acked == []
        route.work()
        route.clock.advance(5)
    assert route.clock.monotonic() - 1000 <= 50
    assert not route.pipeline.consuming
    route.sink.up = False
    route.lose(route.link)  # the worker leaves
    assert route.totals == {"given_back": 3}
    assert route.pipeline.idle
    route.clock.advance(60)
    route.work()
    assert route.pipeline.state is RouteState.WAITING
    route.sink.up, route.sink.decide = True, lambda items: None
    route.clock.advance(60)
    route.work()
    assert route.pipeline.consuming
    route.link = route.connect()
    route.messages(4)
    route.work()
    assert len(route.acked) == 4


def test_the_sink_is_not_probed_while_a_write_is_under_way():
    route = Route(Size(1), ack_deadline=8.0, request_items=1)
    route.messages(2)
    steps = []

    def inner(_items):
        raise SinkUnavailableError("away")

    def outer(_items):
        route.sink.decide = inner
        for _ in range(4):
            route.clock.advance(2)
            steps.append(route.pipeline.step())
        steps.append(route.pipeline.state)
        route.clock.advance(60)
        steps.append(route.pipeline.step())

    route.sink.decide = outer
    route.pipeline.step()
    assert RouteState.WAITING in steps
    assert steps[-1] is False
    assert route.sink.faults == []
    assert route.pipeline.step(), "now it is"


def test_a_route_that_waits_or_has_stopped_does_not_spin():
    route = Route(Size(2), Age(5), ack_deadline=40.0)
    route.messages(3)
    route.sink.up, route.sink.decide = False, fails(SinkUnavailableError("away"))
    while route.pipeline.consuming:
        route.work()
        route.clock.advance(1)
    for _ in range(10):  # with requests and timers that are long since due
        route.work()
        now = route.clock.monotonic()
        assert now < route.pipeline._wake_at(now) < inf
        route.clock.advance(10)
    route.pipeline.stop("test")
    assert route.pipeline._wake_at(route.clock.monotonic()) == inf


# ── the dead-letter queue is away ──


def test_a_dead_letter_queue_that_takes_nothing_lets_the_route_wait():
    route = Route(Size(1), ack_deadline=100.0)
    route.accept(route.message(BAD, id_="a"))
    route.work()
    route.publish(confirmed=False)
    assert route.pipeline._wake_at(route.clock.monotonic()) < inf, "somebody has to look"
    route.clock.advance(24)
    route.work()
    assert route.pipeline.consuming
    route.clock.advance(2)
    route.work()
    assert not route.pipeline.consuming
    route.lose(route.link)
    assert route.dead.pending == 1, "one is kept, to see when it gets through"
    route.clock.advance(60)
    route.work()
    assert not route.pipeline.consuming
    route.publish()
    route.clock.advance(60)
    route.work()
    assert route.pipeline.consuming
    other = route.connect()
    (again,) = route.accept(route.message(BAD, id_="a", link=other, again=True))
    assert other.of(Settlement.ACK) == [again.tag]
    assert route.totals == {"given_back": 1, "duplicate": 1}


# ── a wave of refusals ──


def test_most_messages_refused_stops_the_route_and_dead_letters_none_of_them():
    route = Route(Size(200))
    route.sink.decide = lambda items: [Verdict(Fate.DEAD_LETTER, "mapping")] * len(items)
    route.messages(200)
    route.work()
    assert route.pipeline.state is RouteState.STOPPED
    assert "mapping (200)" in route.pipeline.reason
    assert route.dead.pending == 0
    assert route.acked == []
    route.lose(route.link)
    assert route.totals == {"given_back": 200}


def test_a_few_refused_do_not():
    route = Route(Size(200))
    route.sink.decide = lambda items: [Verdict(Fate.DEAD_LETTER, "mapping")] * 20 + [WRITTEN] * 180
    for _ in range(10):
        route.messages(200)
        route.work()
    assert route.pipeline.consuming
    assert route.dead.pending == 200


def test_bisection_leaves_its_neighbours_written():
    route = Route(Size(64))
    bad = {route.messages(64)[40].id}

    def decide(items):
        if bad.intersection(item.id for item in items):
            raise RequestRefusedError("parse", "why", 400)

    route.sink.decide = decide
    route.work()
    assert [entry.delivery.id for entry in route.dead.waiting] == list(bad)
    assert len(route.acked) == 63


# ── the end ──


def test_draining_flushes_what_has_no_key():
    route = Route(Size(10), linger=5.0)
    route.messages(3)
    route.pipeline.drain()
    assert route.pipeline.state is RouteState.DRAINING
    assert route.work() == 1, "and lingers for nothing"
    assert len(route.acked) == 3
    assert route.pipeline.idle


def test_draining_gives_incomplete_keyed_groups_back():
    route = Route(Size(2), keyed=True)
    complete = route.messages(2, key="a")
    member, sentinel = route.accept(route.message(key="b"), route.message(key="b", end=5))
    route.pipeline.drain()
    route.work()
    assert route.acked == [delivery.tag for delivery in complete]
    assert route.link.of(Settlement.GIVE_BACK) == [member.tag, sentinel.tag]
    assert route.totals == {"written": 2, "given_back": 2}
    assert route.pipeline.idle


def test_keyed_groups_may_be_flushed_instead():
    route = Route(Size(2), keyed=True, give_back_keyed=False)
    route.messages(1, key="b")
    route.pipeline.drain()
    route.work()
    assert len(route.acked) == 1


def test_draining_in_an_outage_tries_on():
    route = Route(Size(1), ack_deadline=100.0)
    route.sink.decide = fails(SinkUnavailableError("away"))
    route.messages(1)
    while route.pipeline.consuming:
        route.work()
        route.clock.advance(5)
    route.pipeline.drain()  # before the worker has left
    assert route.pipeline.state is RouteState.DRAINING, "and waits for no probe"
    route.sink.decide = lambda items: None
    route.clock.advance(60)
    route.work()
    assert len(route.acked) == 1
    assert route.pipeline.idle


def test_draining_before_it_ever_ran_is_at_its_end_at_once():
    route = Route(start=False)
    route.lose(route.link)
    route.pipeline.drain()
    assert route.pipeline.idle


def test_what_is_unfinished():
    route = Route(Size(2), Age(50), keyed=True)
    assert not route.pipeline.unfinished
    route.messages(1, key="k")
    assert route.pipeline.unfinished, "its age will complete it"
    route.messages(1, key="k")
    assert route.pipeline.unfinished
    route.work()
    assert not route.pipeline.unfinished, "though its timer is still there"


def test_a_group_without_a_key_waits_for_more():
    route = Route(Size(2), Age(50))
    route.messages(1)
    assert not route.pipeline.unfinished
    assert not route.pipeline.idle


def test_a_closed_pipeline_lets_its_threads_go():
    route = Route(Size(1))
    thread = Thread(target=route.pipeline.run)
    thread.start()
    route.pipeline.close()
    thread.join(10)
    assert not thread.is_alive()
