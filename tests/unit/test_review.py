"""Faults that a reader found once: each stays mended."""

from __future__ import annotations

import gzip
import threading
from math import inf

import orjson
import pytest

from aggregator.aggregation import Own
from aggregator.backoff import Backoff
from aggregator.buffer import Buffer
from aggregator.completion import Age, Predicate, Size, Trigger, any_of
from aggregator.correlation import compile_expression
from aggregator.errors import MessageRefusedError
from aggregator.group import Group
from aggregator.intake import Intake
from aggregator.metrics import Metrics
from aggregator.outbox import LONE_FAILURES, Outbox
from aggregator.pipeline import Limits, Pipeline
from aggregator.sinks.base import WRITTEN, Fate, Verdict
from aggregator.sinks.base import Limits as SinkLimits
from aggregator.standing import RouteState
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.memory import MemoryDelivery, MemoryLink

RETRY = Verdict(Fate.RETRY, "busy", "", 503)


def message(name, body=b"{}", link=None, **more):
    return MemoryDelivery(body, properties={"message_id": name}, link=link, **more)


def refused(body, link):
    return message("a", body, link, redelivered=True, headers={"x-delivery-count": 99})


class Recording:
    """A sink that writes everything, or gives the verdicts that it is told to give."""

    def __init__(self, **limits):
        self.limits = SinkLimits(**limits)
        self.requests = []
        self.say = lambda item: WRITTEN

    def open(self):
        pass

    def write(self, items):
        self.requests.append([(item.id, len(item.document)) for item in items])
        return [self.say(item) for item in items]

    def close(self):
        pass

    def where(self):
        return "nowhere"


class Stage:
    """A pipeline with everything around it in memory."""

    def __init__(self, sink=None, size=1, aggregation=None, **limits):
        self.clock = VirtualClock()
        self.sink = sink or Recording()
        self.dead = MemoryDeadLetters(self.clock)
        self.link = MemoryLink()
        self.metrics = Metrics()
        self.pipeline = Pipeline(
            "r",
            intake=Intake(self.clock, id=compile_expression("message_id")),
            completion=any_of(Size(size), Age(1.0)),
            sink=self.sink,
            dead_letters=self.dead,
            metrics=self.metrics.route("r"),
            aggregation=aggregation,
            limits=Limits(**{"backoff": Backoff(0.1, 1.0), "breaker_window": 0, **limits}),
            clock=self.clock,
        )
        self.dead.report = self.pipeline.dead_lettered
        self.pipeline.step()  # the probe
        self.pipeline.link_opened(self.link, 1000)

    def run(self):
        while self.pipeline.step():
            pass


def item(name, fingerprint=1):
    made = MemoryDelivery(b"x" * 10)
    made.id, made.fingerprint = name, fingerprint
    return made


def test_items_that_wait_for_an_id_go_together():
    outbox = Outbox(max_items=1000, max_bytes=10**6)
    outbox.offer([item(f"hot{n % 50}", n + 1) for n in range(1000)], 10_000, 0.0)
    sizes = []
    while request := outbox.take(0.0):
        sizes.append(len(request.items))
        outbox.resolve(request, None, 0.0)
    assert sizes == [50] * 20
    assert (outbox.pending, outbox.bytes) == (0, 0)


def test_an_item_that_always_fails_is_given_up_while_others_are_taken():
    stage = Stage(ack_deadline=40.0)
    stage.sink.say = lambda item: RETRY if item.id == "bad" else WRITTEN
    stage.pipeline.accept([message("bad", link=stage.link)])
    for number in range(60):
        stage.pipeline.accept([message(f"good{number}", link=stage.link)])
        stage.clock.advance(1.0)
        stage.run()
        assert stage.pipeline.state is RouteState.RUNNING
    (letter,) = stage.dead.waiting
    assert letter.delivery.id == "bad"
    assert (letter.reason, letter.detail, letter.status) == ("retries-exhausted", "busy", 503)
    assert letter.attempts > LONE_FAILURES
    assert letter.last - letter.first >= 10.0


def test_an_item_is_kept_while_nothing_at_all_is_taken():
    stage = Stage(ack_deadline=40.0)
    stage.sink.say = lambda item: RETRY
    stage.pipeline.accept([message("a", link=stage.link)])
    for _ in range(30):
        stage.clock.advance(1.0)
        stage.run()
        if stage.pipeline.state is RouteState.WAITING:
            break
    assert stage.pipeline.state is RouteState.WAITING
    assert not stage.dead.waiting


def test_what_inflates_is_cut_into_requests_of_the_right_size():
    stage = Stage(size=20, request_bytes=100_000)
    body = gzip.compress(orjson.dumps({"text": "a" * 30_000}))
    stage.pipeline.accept(
        [
            MemoryDelivery(
                body, properties={"message_id": str(n), "content_encoding": "gzip"}, link=stage.link
            )
            for n in range(20)
        ]
    )
    stage.run()
    assert len(body) * 20 < 100_000
    assert max(sum(size for _, size in request) for request in stage.sink.requests) <= 100_000
    assert sorted(int(name) for request in stage.sink.requests for name, _ in request) == list(range(20))
    assert len(stage.link.settled) == 20


def test_a_document_that_inflates_is_not_held():
    intake = Intake(VirtualClock(), key=compile_expression("/k"))
    body = gzip.compress(orjson.dumps({"k": "v", "text": "a" * 30_000}))
    delivery = MemoryDelivery(body, headers={"compression": "application/x-gzip"})
    ((held, key, _, _),) = intake.sort([delivery]).entries
    assert key == "v"
    assert not held.document
    assert not held.parsed


def test_refused_messages_count_as_held_until_they_are_safe():
    stage = Stage(held_bytes=1000)
    stage.pipeline.accept([refused(b"x" * 1000, stage.link)])
    assert stage.dead.pending == 1
    assert not stage.pipeline.has_room
    stage.dead.begin(9)
    stage.dead.end(confirmed=True)
    assert stage.pipeline.has_room


def test_members_that_went_in_part_count_for_the_sentinel():
    buffer = Buffer(any_of(Age(10.0)))
    for name in "abc":
        buffer.add(item(name), "k", 0.0)
    buffer.advance(10.0)
    for name in "de":
        buffer.add(item(name), "k", 11.0)
    buffer.add_sentinel(item("end"), "k", 5, 11.0)
    assert [(len(b.deliveries), b.trigger, b.part, b.complete) for b in buffer.take()] == [
        (3, Trigger.AGE, 1, False),
        (2, Trigger.SENTINEL, 2, True),
    ]


def test_the_same_body_with_another_target_is_another_message():
    intake = Intake(VirtualClock(), id=compile_expression("message_id"))
    deliveries = [
        message("a"),
        message("a", headers={"index": "x"}),
        message("a", headers={"index": "y"}),
        message("a", headers={"index": "y", "x-delivery-count": 3}),
    ]
    intake.sort(deliveries)
    one, two, three, four = (delivery.fingerprint for delivery in deliveries)
    assert len({one, two, three}) == 3
    assert three == four


def test_a_flush_thread_that_cannot_go_on_says_so():
    stage = Stage()
    stage.pipeline._outbox.take = lambda *args, **more: 1 / 0
    thread = threading.Thread(target=stage.pipeline.run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert stage.pipeline.state is RouteState.STOPPED
    assert stage.pipeline.unrecoverable


def test_a_flush_thread_looks_at_refusals_that_do_not_get_through():
    """Nothing else comes in: somebody has to notice that the dead-letter queue takes nothing."""
    stage = Stage()
    assert stage.pipeline._wake_at(stage.clock.monotonic()) == inf
    stage.pipeline._alarms.append(inf)  # one sleeps
    woken = []
    stage.pipeline._changed.notify = lambda n=1: woken.append(n)
    stage.pipeline.accept([refused(b"x", stage.link)])
    assert stage.dead.pending == 1
    assert woken


@pytest.mark.parametrize(("refusals", "fate"), [(20, "dead_lettered"), (200, "given_back")])
def test_a_batch_tells_what_became_of_it(refusals, fate):
    stage = Stage(size=refusals, breaker_window=100, breaker_share=0.5)
    stage.pipeline.accept([message(str(n), b"\xff\xfe", stage.link) for n in range(refusals)])
    batches = []
    finish = stage.pipeline._settler.finish
    stage.pipeline._settler.finish = lambda found: (batches.extend(found), finish(found))
    stage.run()
    assert [dict(batch.fates) for batch in batches] == [{fate: refusals}]


def test_patience_counts_from_the_first_failure_whatever_request_is_tried():
    """Each trial is another request: their own failures are all young."""
    stage = Stage(ack_deadline=40.0, request_items=1)
    stage.sink.say = lambda item: RETRY
    stage.pipeline.accept([message(str(n), link=stage.link) for n in range(100)])
    seen = set()
    for _ in range(13):
        stage.clock.advance(1.0)
        stage.pipeline.step()
        seen.add(stage.pipeline.state)
    assert RouteState.WAITING in seen
    assert len({name for request in stage.sink.requests for name, _ in request}) > 5


def test_isolated_requests_that_a_lost_link_has_emptied_do_not_stop_the_others():
    outbox = Outbox(max_items=10, max_bytes=1000)
    items = [item("", 0) for _ in range(3)]
    for one in items[:2]:
        outbox.isolate(one, 5, 0.0)
    first = outbox.take(0.0)
    outbox.drop([one for one in items[:2] if one not in first.items])
    outbox.resolve(first, None, 0.0)
    assert outbox.take(10.0) is None
    outbox.isolate(items[2], 5, 10.0)
    assert outbox.take(10.0).items == [items[2]]


def test_an_isolated_item_does_not_overtake_what_waits_with_its_id():
    outbox = Outbox(max_items=10, max_bytes=1000, linger=60.0)
    plain, isolated = item("a", 1), item("a", 2)
    outbox.offer([plain], 10, 0.0)
    outbox.isolate(isolated, 5, 0.0)
    request = outbox.take(0.0)
    assert request.items == [plain]
    assert outbox.take(9.0) is None
    outbox.resolve(request, None, 9.0)
    isolated.batch = Buffer(any_of(Size(1)))._batch(Group(None, 0.0), Trigger.ISOLATED, 1, 0.0, 5)
    assert outbox.take(9.0).items == [isolated]


def test_a_copy_of_what_shares_its_documents_is_settled_though_a_link_was_lost_in_between():
    twice = Own(lambda key, documents: [{"a": 1}, {"b": 2}])
    stage = Stage(aggregation=twice, request_items=1)
    other = MemoryLink()
    stage.pipeline.link_opened(other, 1000)

    def lose(item):
        stage.sink.say = lambda item: WRITTEN
        stage.link.alive = False
        stage.pipeline.link_lost(stage.link)
        stage.pipeline.accept([message("a", link=other, redelivered=True)])
        return WRITTEN

    stage.sink.say = lose
    stage.pipeline.accept([message("a", link=stage.link)])
    stage.run()
    assert len(other.settled) == 1
    assert stage.pipeline.idle


def test_a_flush_thread_that_something_strange_ends_says_so():
    stage = Stage()

    def leave(item):
        raise SystemExit

    stage.sink.say = leave
    stage.pipeline.accept([message("a", link=stage.link)])
    stage.pipeline.run()
    assert stage.pipeline.state is RouteState.STOPPED
    assert stage.pipeline.unrecoverable


def test_a_users_function_that_exits_ends_no_thread():
    def leave(*_):
        raise SystemExit

    delivery = message("a")
    (refusal,) = Intake(VirtualClock(), key=leave).sort([delivery]).refused
    assert (refusal.reason, refusal.detail) == ("unreadable", "SystemExit")
    with pytest.raises(MessageRefusedError, match="SystemExit"):
        any_of(Predicate(leave)).after(Group(None, 0.0), delivery)
