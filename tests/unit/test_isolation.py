"""What is delivered often goes alone: who is a suspect, its batch, its request, its turn."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from random import Random

import pytest
import structlog
from structlog.testing import capture_logs

from aggregator import isolation
from aggregator.aggregation import compile_aggregation
from aggregator.backoff import Backoff
from aggregator.buffer import LATE_ALONE, LATE_REFUSED, Buffer
from aggregator.closed import ClosedKeys
from aggregator.completion import Age, Size, Trigger, any_of
from aggregator.correlation import compile_expression, compile_match
from aggregator.errors import MessageRefusedError, SinkRaisedError, SinkUnavailableError
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.outbox import Outbox
from aggregator.pipeline import Limits, Pipeline
from aggregator.sinks.base import Fate, Verdict
from aggregator.standing import RouteState
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.memory import MemoryDelivery, MemoryLink
from aggregator.testing.sink import MemorySink

NOW = 100.0


def message(body=b'{"n": 1}', *, delivered=None, id_="", **given):
    headers = {**given.pop("headers", {}), **({"x-delivery-count": delivered} if delivered else {})}
    made = MemoryDelivery(body, headers=headers, redelivered=bool(delivered), **given)
    made.id, made.fingerprint = id_, hash(id_)
    return made


# ── who is one ──


@pytest.mark.parametrize(("delivered", "suspect"), [(None, False), (4, False), (5, True), (14, True)])
def test_a_suspect(delivered, suspect):
    given = message(delivered=delivered)
    result = Intake(VirtualClock(), isolate_at=5).sort([given])
    assert [entry[0] for entry in result.entries] == ([] if suspect else [given])
    assert result.suspects == ([(given, None, None, delivered)] if suspect else [])


def test_it_can_be_off():
    given = message(delivered=14)
    assert not Intake(VirtualClock()).sort([given]).suspects


def test_a_sentinel_is_none():
    given = message(delivered=14, properties={"type": "end"})
    reader = Intake(VirtualClock(), isolate_at=5, is_sentinel=compile_match("type=end"))
    result = reader.sort([given])
    assert [entry[0] for entry in result.entries] == [given]
    assert not result.suspects


def test_of_a_group_it_is_none_before_it_is_that_or_the_limit():
    """Without its group it goes only where the group is to be dead-lettered soon."""
    members = [message(delivered=count) for count in (None, 4, 5, 10, 11, 14)]
    reader = Intake(VirtualClock(), isolate_at=5, isolate_groups=True)
    result = reader.sort(members)
    assert [entry[0] for entry in result.entries] == members[:4]
    assert [suspect[0] for suspect in result.suspects] == members[4:]
    assert [reader.suspicion(members[:count]) for count in range(1, 5)] == [0, 0, 5, 10]


def test_a_low_limit_leaves_no_time_for_groups():
    reader = Intake(VirtualClock(), isolate_at=3, delivery_limit=5, isolate_groups=True)
    assert reader.alone_at == reader.isolate_at == 3


# ── its batch ──


def batches(buffer):
    return [
        (b.trigger, len(b.deliveries), len(b.controls), b.part, b.complete, b.delivered)
        for b in buffer.take()
    ]


def test_it_leaves_at_once_and_the_group_stays():
    buffer = Buffer(any_of(Size(2)))
    buffer.add(message(), None, NOW)
    buffer.isolate(message(), None, NOW, None, 7)
    assert batches(buffer) == [(Trigger.ISOLATED, 1, 0, 1, False, 7)]
    assert buffer.held == 1


def test_of_a_key_it_is_a_part():
    buffer = Buffer(any_of(Size(2)))
    buffer.add(message(), "k", NOW)
    buffer.isolate(message(), "k", NOW, None, 5)
    buffer.add(message(), "k", NOW)
    assert batches(buffer) == [(Trigger.ISOLATED, 1, 0, 1, False, 5), (Trigger.SIZE, 2, 0, 2, True, 0)]


def test_a_counted_sentinel_counts_it():
    buffer = Buffer(any_of(Size(9)))
    buffer.add_sentinel(message(), "k", 2, NOW)
    buffer.add(message(id_="a"), "k", NOW)
    buffer.isolate(message(id_="b"), "k", NOW, None, 5)
    assert batches(buffer) == [(Trigger.ISOLATED, 1, 0, 1, False, 5), (Trigger.SENTINEL, 1, 1, 2, True, 0)]
    assert (buffer.held, buffer.bytes, buffer.groups) == (0, 0, 0)


def test_a_sentinel_after_suspects_alone():
    buffer = Buffer(any_of(Size(9)))
    buffer.isolate(message(id_="a"), "k", NOW, None, 5)
    buffer.add_sentinel(message(), "k", 1, NOW)
    assert batches(buffer)[1:] == [(Trigger.SENTINEL, 0, 1, 2, True, 0)]


def test_the_last_of_a_sequence_closes_the_key():
    buffer = Buffer(any_of(Size(9)), closed=ClosedKeys(9), late=LATE_REFUSED)
    buffer.isolate(message(id_="a"), "k", NOW, 2, 5)
    buffer.isolate(message(id_="b"), "k", NOW, 2, 5)
    assert [(part, complete) for _, _, _, part, complete, _ in batches(buffer)] == [(1, False), (2, True)]
    with pytest.raises(MessageRefusedError, match="late"):
        buffer.isolate(message(id_="c"), "k", NOW, 2, 5)


def test_what_is_late_goes_alone_anyway():
    buffer = Buffer(any_of(Size(1)), closed=ClosedKeys(9), late=LATE_ALONE)
    buffer.add(message(), "k", NOW)
    buffer.isolate(message(), "k", NOW, None, 5)
    assert batches(buffer)[1:] == [(Trigger.ISOLATED, 1, 0, 1, False, 5)]


def test_a_member_that_contradicts_its_group():
    buffer = Buffer(any_of(Size(9)))
    buffer.add(message(), "k", NOW, 3)
    with pytest.raises(MessageRefusedError, match="bad-sequence"):
        buffer.isolate(message(), "k", NOW, 4, 5)


# ── its request ──


class Half(Random):
    """Draws the middle of every range."""

    def uniform(self, a, b):
        return (a + b) / 2


def outbox(**options):
    return Outbox(max_items=10, max_bytes=10_000, backoff=Backoff(0.4, 30.0, Half()), **options)


def item(body=b"x", id_=""):
    return message(body, id_=id_)


def offer(box, *items, now=NOW):
    box.offer(items, sum(each.size for each in items), now)


def test_nothing_leaves_beside_it():
    box = outbox()
    suspect = item()
    box.isolate(suspect, 5, NOW)
    request = box.take(NOW)
    assert request.items == [suspect]
    offer(box, item())
    box.isolate(item(), 5, NOW)
    assert box.take(NOW + 60) is None
    assert box.wake_at(NOW + 60) == inf
    box.resolve(request, None, NOW)
    assert box.take(NOW) is not None


def test_it_does_not_leave_beside_others():
    box = outbox()
    box.isolate(item(), 5, NOW)
    assert box.take(NOW, quiet=False) is None
    assert box.wake_at(NOW, quiet=False) == inf, "who ends the others looks again"
    assert box.wake_at(NOW) == NOW
    assert box.take(NOW) is not None


def test_others_go_first_but_not_for_ever():
    box = outbox()
    suspect, other = item(), item()
    box.isolate(suspect, 5, NOW)
    offer(box, other)
    assert box.take(NOW).items == [other]
    offer(box, item())
    assert box.take(NOW + isolation.PATIENCE, quiet=False) is None, "they wait for it now"
    assert box.take(NOW + isolation.PATIENCE).items == [suspect]


def test_between_two_of_them_others_have_their_time():
    box = outbox()
    for body in (b"a", b"b"):
        box.isolate(item(body), 5, NOW)
    offer(box, item())
    later = NOW + isolation.PATIENCE
    box.resolve(box.take(later), None, later)
    assert not box.take(later).delivered
    offer(box, item())
    assert box.wake_at(later) <= later + isolation.GAP
    assert box.take(later + isolation.GAP).delivered


def passes(delivered, bodies):
    box = outbox()
    for body in bodies:
        box.isolate(item(body), delivered, NOW)
    found = []
    while request := box.take(NOW):
        found.append(request.items[0].body)
        box.resolve(request, None, NOW)
    return found


def test_the_order_of_a_pass_is_the_reverse_of_the_one_before():
    bodies = [b"%d" % number for number in range(50)]
    assert passes(7, bodies) == passes(6, bodies[::-1])[::-1]
    orders = [passes(count, bodies) for count in (4, 6, 8)]
    assert all(one not in (other, other[::-1]) for one, other in pairwise(orders))


def test_the_least_delivered_goes_first():
    box = outbox()
    counts = [9, 5, 12, 6]
    for delivered in counts:
        box.isolate(item(b"%d" % delivered), delivered, NOW)
    found = []
    while request := box.take(NOW):
        found.append(request.delivered)
        box.resolve(request, None, NOW)
    assert found == sorted(counts)


def test_one_that_fails_comes_again_alone_and_others_go_on():
    box = outbox()
    suspect, other = item(), item()
    box.isolate(suspect, 5, NOW)
    box.fail(box.take(NOW), SinkUnavailableError("away"), NOW)
    assert box.wake_at(NOW) == pytest.approx(NOW + 0.3)
    offer(box, other)
    assert box.take(NOW + 1).items == [other], "a sink that fails is tried with others"
    assert box.waiting() == [suspect]
    assert all(request.delivered == 5 for request in box.isolation)


def test_its_id_is_kept_in_order():
    box = outbox()
    older, suspect, newer = item(b"1", "a"), item(b"2", "a"), item(b"3", "a")
    suspect.batch = type("Batch", (), {"delivered": 5})
    offer(box, older)
    first = box.take(NOW)
    box.isolate(suspect, 5, NOW)
    offer(box, newer)
    assert box.take(NOW) is None
    box.resolve(first, None, NOW)
    request = box.take(NOW)
    assert (request.items, request.delivered) == ([suspect], 5)
    box.resolve(request, None, NOW)
    assert box.take(NOW).items == [newer]
    assert box.pending == 1


def test_it_goes_back_with_its_link():
    box = outbox()
    suspect = item()
    box.isolate(suspect, 5, NOW)
    box.drop([suspect])
    assert box.take(NOW) is None
    assert (box.pending, box.bytes, bool(box.isolation)) == (0, 0, False)


def test_what_raises_twice_is_halved():
    box = outbox()
    offer(box, *(item() for _ in range(8)))
    now, sizes = NOW, []
    for _ in range(6):
        now = max(now, box.wake_at(now))
        request = box.take(now)
        sizes.append(len(request.items))
        box.fail(request, SinkRaisedError("raised"), now)
    assert sizes[:3] == [8, 8, 4]
    assert box.pending == 8


# ── the route ──


@pytest.fixture(autouse=True)
def logged():
    with capture_logs() as entries:
        yield entries
    structlog.reset_defaults()


class Route:
    """A route with the service's default times."""

    def __init__(self, *, intake=None, aggregation=None):
        self.clock = VirtualClock()
        self.sink, self.dead = MemorySink(), MemoryDeadLetters(self.clock)
        self.link = MemoryLink()
        self.pipeline = Pipeline(
            "r",
            intake=intake or Intake(self.clock, id=compile_expression("message_id"), isolate_at=5),
            aggregation=aggregation,
            completion=any_of(Size(100), Age(2.0)),
            sink=self.sink,
            dead_letters=self.dead,
            metrics=Metrics().route("r"),
            limits=Limits(backoff=Backoff(0.1, 30.0, Half())),
            clock=self.clock,
        )
        self.dead.report = self.pipeline.dead_lettered
        self.pipeline.link_opened(self.link, 1000)
        assert self.pipeline.step()

    def accept(self, body=b"{}", **given):
        self.pipeline.accept([message(body, link=self.link, **given)])


def keyed_route():
    clock = VirtualClock()
    return Route(
        intake=Intake(
            clock,
            key=compile_expression("header:key"),
            sequence=compile_expression("header:of", "sequence"),
            isolate_at=5,
            isolate_groups=True,
        ),
        aggregation=compile_aggregation("list"),
    )


def test_a_group_goes_alone_and_whole():
    route = keyed_route()
    for key in ("a", "b", "c"):
        for delivered in (1, 6 if key == "b" else 2):
            route.accept(headers={"key": key, "of": 2}, delivered=delivered)
    while route.pipeline.step():
        pass
    assert {len(request) for request in route.sink.requests} == {1}
    reports = route.pipeline.history.last()
    assert [(report.key, report.messages, report.complete) for report in reports] == [
        ("a", 2, True),
        ("c", 2, True),
        ("b", 2, True),
    ]


def test_groups_wait_until_all_that_came_before_is_here():
    route = keyed_route()
    route.pipeline.gather(on=True)
    for delivered in (5, 6):
        route.accept(headers={"key": "a", "of": 2}, delivered=delivered)
    assert route.pipeline.trying
    assert not route.pipeline.step()
    assert route.pipeline._wake_at(route.clock.monotonic()) > route.clock.monotonic() + 1
    route.pipeline.gather(on=False)
    assert route.pipeline.step()
    assert not route.pipeline.trying


def test_acks_go_out_before_it():
    route = Route()
    route.link.unsent = True
    route.accept(delivered=5)
    assert not route.pipeline.step()
    now = route.clock.monotonic()
    assert now < route.pipeline._wake_at(now) < now + 1
    route.link.unsent = False
    assert route.pipeline.step()
    assert len(route.sink.requests) == 1


def test_a_worker_is_told_when_it_was_tried():
    route = Route()
    assert route.pipeline.isolate_at == 5
    route.pipeline.accept([message(link=route.link)])
    assert not route.pipeline.trying
    route.pipeline.accept([message(delivered=5, link=route.link)])
    assert route.pipeline.trying
    route.sink.decide = lambda items: [Verdict(Fate.RETRY, "busy") for _ in items]
    while route.pipeline.step():
        pass
    assert not route.pipeline.trying


def never(items):
    """What a user's function does that cannot stand one document."""
    if any(b"poison" in each.document for each in items):
        raise SinkRaisedError("raised")


def test_a_document_that_the_function_never_stands_is_given_up_alone():
    """With the default times; new messages keep coming."""
    route = Route()
    route.sink.decide = never
    for number in range(100):
        route.accept(b'{"poison": 1}' if number == 17 else b"{}")
    lags, written, began = [], 0, route.clock.monotonic()
    while not route.dead.pending and route.clock.monotonic() < began + 1_000:
        route.accept()
        came = route.clock.monotonic()
        while len(route.sink.stored) <= written:
            if not route.pipeline.step():
                route.clock.advance_to(route.pipeline._wake_at(route.clock.monotonic()))
        written = len(route.sink.stored)
        lags.append(route.clock.monotonic() - came)
        assert route.pipeline.state is RouteState.RUNNING
        route.clock.advance(1.0)
    (letter,) = route.dead.waiting
    assert letter.delivery.body == b'{"poison": 1}'
    assert letter.reason == "retries-exhausted"
    assert 450 <= route.clock.monotonic() - began < 600, "a quarter of the ack deadline, and its next try"
    assert max(lags) < 35, "a new message waits for its group and for a pause of the gate"
