"""Tasks of tubes as deliveries: taken, acked with a report, shortened, buried, and never acked twice."""

from __future__ import annotations

from threading import Thread

import orjson
import pytest
from prometheus_client import CollectorRegistry

from aggregator.assembly import make_pipeline
from aggregator.errors import SinkUnavailableError
from aggregator.metrics import Metrics
from aggregator.sinks.base import Fate, Limits, Verdict
from aggregator.testing.clock import VirtualClock
from aggregator.testing.settings import from_arguments
from consumers.brokers import broker_fault
from consumers.source import EPOCHS
from consumers.tube_delivery import TubeDelivery, as_body
from consumers.tube_link import TOUCH_EVERY
from consumers.tube_source import TubeInspector
from consumers.tubes import Burials, Memory, TubeWorker
from tests.tube_server import ADDRESS, TubeServer, burials_of, leashed

OK = Verdict(Fate.WRITTEN)
GONE = Verdict(Fate.REFUSED, "Unregistered")
BUSY = Verdict(Fate.RETRY, "busy")
WRONG = Verdict(Fate.DEAD_LETTER, "BadTopic", "of no app")


def push(*devices, **more):
    return {
        "campaign": "c", "platform": "apns", "notification": {"payload": {"a": 1}}, "claim": "kept",
        "recipients": [[device, f"t-{device}"] for device in devices], **more,
    }  # fmt: skip


class Gateway:
    limits = Limits(items=100)

    def __init__(self):
        self.words = {}
        self.sent = []
        self.during = lambda: None
        self.error = None

    def open(self):
        if self.error:
            raise self.error

    def write(self, items):
        if self.error:
            raise self.error
        self.during()
        self.sent += [item.address.device if item.address else item.document for item in items]
        return [self.words.get(item.address.device, OK) if item.address else OK for item in items]

    def close(self):
        pass

    def where(self):
        return ""


class Stage:
    """A server, a route and its worker, all in one thread."""

    def __init__(self, **settings):
        self.clock = VirtualClock(1_700_000_000.0)
        self.server = TubeServer(self.clock)
        self.gateway = Gateway()
        self.metrics = Metrics(CollectorRegistry())
        self.route = from_arguments(
            {"broker": "tarantool://h:1/", "queue": "apns", "aggregate": "push", **settings}
        )
        holder = {}
        self.burials = burials_of(holder)
        self.pipeline = holder["pipeline"] = make_pipeline(
            self.route, sink=self.gateway, dead_letters=self.burials,
            metrics=self.metrics.route("r"), clock=self.clock,
        )  # fmt: skip
        self.memory = Memory()
        self.worker = self.another()
        self.pipeline.step()  # the probe

    def another(self, **options):
        return leashed(
            self.server, self.pipeline, self.burials, self.metrics.route("r"), self.clock,
            memory=self.memory, **options,
        )  # fmt: skip

    def turn(self, times=3):
        for _ in range(times):
            self.worker.step()
            while self.pipeline.step():
                pass

    @property
    def totals(self):
        return {verdict: n for verdict, n in self.metrics.totals().get("r", {}).items() if n}

    def data(self, state):
        return [task.data for task in self.server.of(state)]


@pytest.fixture
def stage():
    return Stage()


def devices(data):
    return [recipient[0] for recipient in data["recipients"]]


def test_a_task_is_acked_with_a_report(stage):
    stage.gateway.words = {"b": GONE}
    stage.server.put(push("a", "b", "c"))
    stage.turn()
    assert (stage.server.tasks, stage.server.counts) == ({}, {"sent": 2, "Unregistered": 1})
    assert stage.totals == {"refused": 1}
    assert stage.pipeline.idle


def test_a_revoked_task_is_acked_and_says_so(stage):
    stage.server.put(push("a", "b"))
    (tag,) = stage.server.tasks
    stage.pipeline.revocations.revoke({f"{stage.worker._address}/apns/{tag}": 60.0}, {})
    stage.turn()
    assert (stage.server.tasks, stage.server.counts, stage.gateway.sent) == ({}, {"revoked": 2}, [])
    assert stage.totals == {"revoked": 1}


def test_nothing_is_taken_while_the_route_rests(stage):
    stage.server.put(push("a"))
    stage.turn()
    stage.pipeline.pause("why")
    stage.turn()
    assert (stage.pipeline.state.value, stage.worker.link) == ("paused", None)
    stage.server.put(push("b"))
    stage.pipeline.step()
    assert stage.gateway.sent == ["a"]
    stage.pipeline.resume()
    stage.turn()
    assert stage.gateway.sent == ["a", "b"]


def test_what_is_put_off_is_given_back_alone_at_the_end(stage):
    stage.gateway.words = {"b": BUSY, "c": GONE}
    stage.server.put(push("a", "b", "c"))
    stage.turn()
    stage.worker.part()
    (task,) = stage.server.tasks.values()
    assert (task.state, task.data) == ("ready", push("b"))
    assert stage.server.counts == {"sent": 1, "Unregistered": 1}
    stage.gateway.words = {}
    stage.turn()
    assert (stage.server.tasks, stage.gateway.sent) == ({}, ["a", "b", "c", "b"])
    assert stage.server.counts == {"sent": 2, "Unregistered": 1}


def test_an_outage_gives_back_what_is_left(stage):
    stage = Stage(ack_deadline="1m", request_items=1)
    stage.server.put(push("a", "b"))
    stage.gateway.during = lambda: setattr(stage.gateway, "error", SinkUnavailableError("away"))
    stage.turn()
    stage.clock.advance(20)
    stage.turn()
    assert stage.pipeline.state.value == "waiting"
    assert stage.data("ready") == [push("b")]
    stage.gateway.error, stage.gateway.during = None, lambda: None
    stage.clock.advance(60)
    stage.turn()
    assert (stage.server.tasks, stage.gateway.sent) == ({}, ["a", "b"])


def test_a_lost_session_acks_nothing_and_what_is_done_is_not_sent_again(stage):
    stage.gateway.words = {"b": BUSY}
    stage.server.put(push("a", "b"))
    stage.turn()
    first = stage.worker.link
    stage.worker.session.close()
    stage.gateway.words = {}
    stage.turn()
    assert not first.alive
    assert (stage.server.tasks, stage.gateway.sent) == ({}, ["a", "b", "b"])
    assert stage.server.counts == {"sent": 2}


def test_a_session_lost_during_a_write_is_not_acked_and_its_copy_settles(stage):
    stage.server.put(push("a", "b"))

    def lose():
        stage.gateway.during = lambda: None
        stage.worker.session.close()
        stage.worker.step()
        stage.worker.step()  # taken again, by a new session

    stage.gateway.during = lose
    stage.turn()
    assert stage.gateway.sent == ["a", "b"]
    assert (stage.server.tasks, stage.server.counts) == ({}, {"sent": 2})


def test_a_task_that_somebody_else_got_settles_by_the_word_that_was_under_way(stage):
    stage.server.put(push("a", "b"))
    other = stage.another()

    def run_out():
        stage.gateway.during = lambda: None
        (task,) = stage.server.of("taken")
        stage.server.give_back(task)  # its time to run is over, and its session lives
        other.step()

    stage.gateway.during = run_out
    stage.turn()
    other.step()
    assert (stage.gateway.sent, stage.server.tasks) == (["a", "b"], {})
    assert stage.server.counts == {"sent": 2}


def test_an_ack_that_was_lost_is_sent_again_and_nothing_else(stage):
    stage.server.put(push("a"))
    stage.turn(1)
    stage.worker.session.fail_at = 0
    stage.turn()
    assert (stage.gateway.sent, stage.server.tasks) == (["a"], {})
    assert stage.server.counts == {"sent": 1}


def test_a_refused_task_is_buried_with_its_reason(stage):
    stage.server.put({"campaign": "c"})
    stage.server.put("text")
    stage.turn()
    assert [task.reason for task in stage.server.of("buried")] == [
        "bad-push: platform is none of apns, fcm",
        "bad-push: campaign is no text, or empty",
    ]
    assert stage.server.counts == {"bad-push": 2}
    assert stage.totals == {"dead_lettered": 2}
    assert stage.pipeline.idle


def test_what_is_buried_are_the_refused_recipients_alone(stage):
    stage.gateway.words = {"b": WRONG}
    stage.server.put(push("a", "b", "c"))
    stage.turn()
    (task,) = stage.server.of("buried")
    assert (task.data, task.reason) == (push("b"), "BadTopic: of no app")
    assert stage.server.counts == {"sent": 2, "BadTopic": 1}


def test_a_burial_that_was_lost_is_done_by_the_next_session(stage):
    stage.gateway.words = {"b": WRONG}
    stage.server.put(push("a", "b"))
    stage.turn(1)
    stage.worker.session.fail_at = 1  # after the task was shortened
    stage.turn(4)
    (task,) = stage.server.of("buried")
    assert task.data == push("b")
    assert stage.gateway.sent.count("a") == 1
    assert stage.pipeline.idle


def test_what_is_too_early_is_released_until_its_window(stage):
    opens = stage.clock.time() + 3600
    stage.server.put(push("a", not_before=opens))
    stage.turn()
    (task,) = stage.server.of("delayed")
    assert (task.due, stage.gateway.sent, stage.totals) == (opens, [], {"postponed": 1})
    assert stage.pipeline.idle
    stage.clock.advance(3600)
    stage.turn()
    assert (stage.gateway.sent, stage.server.tasks) == (["a"], {})


def test_what_is_put_off_for_a_time_is_released_until_then_and_holds_no_place(stage):
    stage.gateway.words = {"b": Verdict(Fate.RETRY, "UNAVAILABLE", after=5), "c": GONE}
    stage.gateway.words["d"] = Verdict(Fate.RETRY, "QUOTA_EXCEEDED", after=60)
    stage.server.put(push("a", "b", "c", "d"))
    stage.turn()
    (task,) = stage.server.of("delayed")
    assert (task.due, task.data) == (stage.clock.time() + 60, push("b", "d"))
    assert (stage.totals, stage.server.counts) == ({"postponed": 1}, {"sent": 1, "Unregistered": 1})
    assert stage.pipeline.idle
    stage.gateway.words = {}
    stage.clock.advance(60)
    stage.turn()
    assert (stage.gateway.sent, stage.server.tasks) == (["a", "b", "c", "d", "b", "d"], {})
    assert stage.server.counts == {"sent": 3, "Unregistered": 1}


def test_a_window_that_ends_during_retries_leaves_what_is_left_for_the_next(stage):
    now = stage.clock.time()
    stage.gateway.words = {"b": BUSY}
    stage.server.put(push("a", "b", not_before=now, not_after=now + 5, next_window=now + 100))
    while not stage.server.of("delayed") and stage.clock.time() < now + 90:
        stage.turn(1)
        stage.clock.advance(1)
    (task,) = stage.server.of("delayed")
    assert devices(task.data) == ["b"]
    assert task.due == pytest.approx(now + 100)


def test_what_has_expired_is_counted(stage):
    stage.server.put(push("a", "b", expires=5))
    stage.turn()
    assert (stage.server.counts, stage.totals) == ({"expired": 2}, {"expired": 1})


def test_no_more_is_taken_than_may_be_held(stage):
    stage.gateway.words = {str(n): BUSY for n in range(10)}
    for n in range(10):
        stage.server.put(push(str(n)))
    stage.turn(5)
    assert len(stage.server.of("taken")) == stage.worker.prefetch


def test_what_is_held_is_touched(stage):
    stage.gateway.words = {"a": BUSY}
    stage.server.put(push("a"))
    stage.turn(1)
    assert "tubes.touch" not in stage.server.calls
    stage.clock.advance(TOUCH_EVERY)
    stage.turn(2)
    assert stage.server.calls.count("tubes.touch") == 1


def test_a_task_that_kills_is_buried_in_the_end(stage):
    task = stage.server.put(push("a"))
    stage.server.tasks[task].attempts = 15
    stage.turn()
    assert stage.server.tasks[task].reason.startswith("delivery-limit")


def test_nothing_is_taken_while_something_is_tried_alone(stage):
    task = stage.server.put(push("a"))
    stage.server.tasks[task].attempts = 6
    stage.worker.step()
    stage.server.put(push("b"))
    stage.worker.step()
    assert len(stage.server.of("taken")) == 1
    stage.turn()
    assert (stage.gateway.sent, stage.server.tasks) == (["a", "b"], {})


def test_documents_come_from_tubes_too():
    stage = Stage(aggregate="documents", size=2)
    stage.server.put({"n": 1})
    stage.server.put('{"n": 2}')
    stage.turn()
    assert [orjson.loads(document) for document in stage.gateway.sent] == [{"n": 1}, {"n": 2}]
    assert (stage.server.tasks, stage.server.counts) == ({}, {"done": 2})


def test_a_task_says_what_expressions_ask():
    delivery = TubeDelivery(None, ADDRESS, ("apns", 5, 2, {"n": 1}))
    assert delivery.basic_property("message_id") == f"{ADDRESS}/apns/5"
    assert (delivery.header("x-delivery-count"), delivery.redelivered) == (2, True)
    assert (delivery.routing_key, delivery.exchange, delivery.json()) == ("apns", ADDRESS, {"n": 1})
    assert TubeDelivery(None, ADDRESS, ("apns", 5, 0, {})).headers == {}


@pytest.mark.parametrize(
    ("data", "body", "kind"),
    [
        (b"\xff", b"\xff", None),
        ("text", b"text", None),
        ([1], b"[1]", "application/json"),
        ({"a": b"\0"}, b"<class 'dict'>", "application/msgpack"),
    ],
)
def test_data_as_a_body(data, body, kind):
    assert as_body(data) == (body, kind)


def test_the_inspector_adds_up_and_knows_nothing_where_a_server_is_away(stage):
    stage.server.put(push("a"))
    stage.server.put(push("b"), delay=5)
    stage.server.put(push("c"), tube="fcm")
    inspector = TubeInspector([ADDRESS, "other"], ["apns", "fcm"], stage.server.connect)
    status = inspector.status()
    assert (status.messages, status.consumers) == (6, None)
    assert status.states == {"ready": 4, "delayed": 2, "taken": 0, "buried": 0}
    inspector.close()
    stage.server.up = False
    assert inspector.status() is None


def test_the_memory_is_bounded_and_knows_the_same_task_alone():
    memory = Memory(1)
    first = TubeDelivery(None, ADDRESS, ("t", 1, 0, push("a", "b")))
    first.progress.done[0] = "sent"
    memory.keep([first])
    other = TubeDelivery(None, ADDRESS, ("t", 1, 1, push("b")))
    memory.recall(other)
    assert not other.parts
    memory.keep([first, TubeDelivery(None, ADDRESS, ("t", 2, 0, {}))])
    again = TubeDelivery(None, ADDRESS, ("t", 1, 1, push("a", "b")))
    memory.recall(again)
    assert not again.parts


def test_urls_are_looked_at():
    assert broker_fault("tarantool://u:p@h:1,h2:2/?timeout=5s") is None
    assert "timeout" in broker_fault("tarantool://h/?tiemout=5s")


# ── its own thread ──


def test_a_worker_connects_takes_and_stops_in_order(stage):
    stage.server.put(push("a"))
    worker = TubeWorker(
        ADDRESS, ["apns"], stage.pipeline, prefetch=4, name="r-1", epochs=EPOCHS, memory=Memory(),
        burials=Burials(print), metrics=stage.metrics.route("r"), connect=stage.server.connect,
    )  # fmt: skip
    flusher = Thread(target=stage.pipeline.run)
    thread = Thread(target=worker.run)
    flusher.start()
    thread.start()
    stage_done = stage.gateway
    while stage.server.tasks and thread.is_alive():
        worker.wake()
    worker.stopping.set()
    worker.wake()
    assert worker.cancelled.wait(10)
    assert thread.is_alive()
    worker.released.set()
    worker.wake()
    thread.join(10)
    stage.pipeline.close()
    flusher.join(10)
    assert (worker.state, stage_done.sent) == ("stopped", ["a"])
