"""The harness for tests: a route in memory, with everything that can happen to one."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

import aggregator.testing
from aggregator.config import load
from aggregator.errors import ConfigurationErrors, SinkBlockedError, UnrecoverableError
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.testing import Harness, MemorySink
from aggregator.testing.clock import wall_seconds

ROOT = Path(__file__).parents[2]


def numbers(documents):
    return [document["n"] for document in documents]


def publish(route, count, **more):
    for n in range(count):
        route.publish({"n": n}, **more)


# ── settings: those of the service, and its errors ──


def test_it_takes_the_settings_of_the_service_and_its_defaults():
    with Harness(correlate="header:order", size=3) as harness:
        route = harness.route
    (default,) = load(["--correlate", "header:order", "--size", "3"]).routes.values()
    assert route == default.model_copy(update={"linger": 0.0})


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"sise": 3}, "sise: no such setting; did you mean size?"),
        ({"age": 2}, "age: 2 has no unit; a number with its unit is needed, like 500ms, 2s, 5m or 1h30m"),
        ({"size": 0}, "size"),
        ({"sequence": "header:count"}, "sequence: there are no keys; set correlate as well, or remove it"),
        ({"sink": "nowhere://x"}, "sink: unknown scheme"),
        ({"size": 50, "prefetch": 10}, "prefetch: 1 x prefetch 10 = 10 messages never fill a group of 50"),
    ],
)
def test_wrong_settings_are_refused_as_by_the_service(settings, fault):
    with pytest.raises(ConfigurationErrors) as caught:
        Harness(**settings)
    assert str(caught.value).startswith(fault)


def test_a_route_and_an_application_bring_their_settings():
    settings = load(["--size", "2"])

    class App:
        def settings(self):
            return settings

    (route,) = settings.routes.values()
    for harness in (Harness(route), Harness(App()), Harness(App(), "default")):
        with harness:
            publish(harness, 2)
            assert numbers(harness.documents) == [0, 1]
    with pytest.raises(ValueError, match="no route 'other'; there are default"):
        Harness(App(), "other")
    with pytest.raises(TypeError, match="size: the route has its settings already"):
        Harness(route, size=3)


def test_a_file_is_read_as_the_service_reads_it(tmp_path):
    path = tmp_path / "route.toml"
    path.write_text('[routes.a]\nqueue = "qa"\nsize = 2\n[routes.b]\nqueue = "qb"\nsize = 5\n')
    with Harness.from_file(path, "b", size=3, links=2) as route:
        assert (route.route.size, route.route.queue, route.route.workers) == (3, "qb", 2)
        publish(route, 3)
        assert route.batches[0].trigger == "size"
    with pytest.raises(ValueError, match="no route is named; there are a, b"):
        Harness.from_file(path)
    path.write_text("sise = 3\n")
    with pytest.raises(ConfigurationErrors, match="did you mean size"):
        Harness.from_file(path)
    path.write_text("size = 3\n")
    with pytest.raises(ConfigurationErrors, match="ags: no such setting"):
        Harness.from_file(path, ags="2s")


def test_a_group_becomes_one_document():
    with Harness(correlate="header:k", size=2, aggregate="merge", merge={"n": "sum"}) as route:
        publish(route, 2, headers={"k": "a"})
        assert route.documents == [{"n": 1}]
        assert route.queue == []


# ── time ──


def test_what_is_due_is_done_at_its_moment_and_in_order():
    with Harness(correlate="header:k", age="2s", size=100) as route:
        route.publish({"n": 1}, headers={"k": "a"})
        route.advance(0.5)
        route.publish({"n": 2}, headers={"k": "b"})
        route.advance(1.49)
        assert route.batches == []
        route.advance("1h")
        assert [(batch.key, batch.age) for batch in route.batches] == [("a", 2.0), ("b", 2.0)]
        assert numbers(route.documents) == [1, 2]


@pytest.mark.parametrize(
    "at", ["2024-02-29T23:59:30", "2024-03-01T00:59:30+01:00", datetime(2024, 2, 29, 23, 59, 30, tzinfo=UTC)]
)
def test_the_wall_clock_may_be_chosen(at):
    with Harness(age="none", interval="1m", at=at) as route:
        publish(route, 1)
        route.advance("29s")
        assert route.batches == []
        route.advance("1s")
        assert [batch.trigger for batch in route.batches] == ["interval"]
        assert route.clock.time() == wall_seconds("2024-03-01T00:00:00Z")


def test_crontab_by_the_calendar():
    with Harness(age="none", crontab="0 6 * * *", time_zone="Europe/Berlin", at="2024-07-01T03:50Z") as route:
        publish(route, 1)
        route.advance("9m59s")
        assert route.documents == []
        route.advance("1s")
        assert route.batches[0].trigger == "crontab"


def test_time_does_not_go_back():
    with Harness() as route, pytest.raises(ValueError, match="time does not go back"):
        route.advance(-1)


def test_a_request_lingers_where_it_is_asked_to():
    with Harness(correlate="header:k", size=2, linger="5ms") as route:
        publish(route, 2, headers={"k": "a"})
        publish(route, 2, headers={"k": "b"})
        assert route.documents == []
        route.settle()
        assert [len(request) for request in route.sink.requests] == [4]


def test_a_sink_that_takes_its_time():
    with Harness(size=1, age="2s") as route:
        route.sink.before = lambda items: route.advance("5s")
        before = route.clock.monotonic()
        publish(route, 2)
        assert route.clock.monotonic() == before + 10
        assert route.queue == []


# ── messages ──


def test_bodies_and_properties_are_as_a_publisher_gives_them():
    with Harness(size=4, sink=lambda request: seen.extend(item.deliveries[0] for item in request)) as route:
        seen = []
        route.publish({"n": 1}, id="a", type="order", routing_key="r", exchange="e")
        route.publish("a text")
        route.publish(b'{"n": 3}')
        route.publish([1], content_type="text/plain")
        first = seen[0]
        assert (first.id, first.properties["type"], first.routing_key, first.exchange) == (
            "a",
            "order",
            "r",
            "e",
        )
        assert route.documents == [{"n": 1}, {"message": "a text"}, {"n": 3}, {"message": "[1]"}]
        with pytest.raises(TypeError, match="'mesage_id' is no property of AMQP"):
            route.publish({}, mesage_id="a")
        with pytest.raises(ValueError, match="no link 1; there are 1"):
            route.publish({}, link=1)


def test_a_bad_message_is_dead_lettered_with_its_reason():
    with Harness(size=2) as route:
        publish(route, 1)
        route.publish(b"{", content_type="application/json")
        assert numbers(route.documents) == [0]
        (letter,) = route.dead_letters
        assert letter.reason == "bad-json"
        assert letter.detail
        assert route.totals == {"written": 1, "dead_lettered": 1}
        assert [message.acked for message in route.acked] == [1, 1]


def test_while_the_dead_letter_queue_is_away_nothing_refused_is_acked():
    with Harness(size=1) as route:
        route.lose_dead_letter_queue()
        route.publish(b"")
        route.advance("1m")
        assert len(route.queue) == 1
        route.lose_dead_letter_queue(lost=False)
        assert route.queue == []
        assert route.dead_letters[0].reason == "empty-body"


# ── links ──


def test_messages_are_spread_over_links_within_their_prefetch():
    with Harness(size=10, links=2, prefetch=5, age="2s") as route:
        publish(route, 25)
        assert [len(request) for request in route.sink.requests] == [10, 10]
        assert len(route.unacked) == 5
        route.stop()
        assert route.queue == []


def test_more_than_the_prefetch_stays_with_the_broker():
    with Harness(size=3, prefetch=4) as route:
        route.sink.fail(times=None)
        publish(route, 6)
        assert [message.number for message in route.unacked] == [0, 1, 2, 3]
        assert len(route.queue) == 6


def test_a_lost_link_brings_everything_again_with_a_rising_count():
    counts = []
    with Harness(size=2) as route:
        route.sink.before = lambda items: counts.append(
            [item.deliveries[0].headers.get("x-delivery-count") for item in items]
        )
        message = route.publish({"n": 1}, id="a")
        for _ in range(3):
            route.lose_link()
        route.publish({"n": 2})
        assert counts == [[3, None]]
        assert message.deliveries == 4
        assert route.totals == {"given_back": 3, "written": 2}


def test_a_message_that_never_gets_a_verdict_is_dead_lettered_in_time():
    with Harness(size=2, isolate_at="off") as route:
        publish(route, 1)
        for _ in range(15):
            route.lose_link()
        assert [letter.reason for letter in route.dead_letters] == ["delivery-limit"]


def test_what_is_delivered_often_is_written_alone():
    with Harness(size=2, isolate_at=5) as route:
        publish(route, 1)
        for _ in range(4):
            route.lose_link()
        assert not route.documents
        route.lose_link()
        assert [batch.trigger for batch in route.batches] == ["isolated"]
        assert len(route.documents) == 1


def test_one_of_several_links_is_lost():
    with Harness(size=4, links=2) as route:
        publish(route, 3)
        route.lose_link(1)
        assert [message.deliveries for message in route.queue] == [1, 2, 1]
        publish(route, 1)
        assert len(route.documents) == 4


def test_a_sentinel_overtakes_members_on_another_link():
    settings = {"correlate": "header:k", "sentinel": "type=end", "sentinel_count": "members", "size": 100}
    with Harness(**settings, links=2) as route:
        route.publish("end", type="end", headers={"k": "a", "members": 2}, link=1)
        publish(route, 2, headers={"k": "a"}, link=0)
        (batch,) = route.batches
        assert (batch.trigger, batch.complete, len(batch.messages)) == ("sentinel", True, 2)
        assert batch.sentinels[0].properties["type"] == "end"
        assert route.totals == {"written": 2, "control": 1}


def test_a_link_is_lost_while_the_sink_writes():
    with Harness(size=1) as route:
        route.sink.before = lambda items: route.lose_link() if len(route.sink.requests) == 1 else None
        route.publish({"n": 1}, id="a")
        assert route.totals == {"given_back": 1, "duplicate": 1}
        assert numbers(route.documents) == [1]


# ── the sink ──


def test_items_are_refused_put_off_or_known():
    with Harness(size=4) as route:
        route.sink.refuse("a", "mapping", "field n")
        route.sink.retry(lambda document: document["n"] == 1, times=2)
        route.sink.duplicate("c")
        for n, name in enumerate("abcd"):
            route.publish({"n": n}, id=name)
        assert numbers(route.documents) == [3]
        assert [(letter.reason, letter.detail) for letter in route.dead_letters] == [("mapping", "field n")]
        route.settle()
        assert numbers(route.documents) == [3, 1]
        assert route.sink.requests == [["a", "b", "c", "d"], ["b"], ["b"]]
        assert route.totals == {"written": 2, "duplicate": 1, "dead_lettered": 1}
        assert route.batches[0].fates == {"written": 2, "duplicate": 1, "dead_lettered": 1}


def test_the_sink_fails_and_comes_back():
    with Harness(size=1, retry_first="1s", retry_max="1s") as route:
        route.sink.fail(times=2)
        publish(route, 1)
        assert route.documents == []
        route.advance(2)
        assert numbers(route.documents) == [0]
        assert len(route.sink.requests) == 3


def test_a_sink_that_is_away_for_long_gets_everything_given_back_once():
    with Harness(size=1) as route:
        route.sink.fail(times=None)
        message = route.publish({"n": 1}, id="a")
        route.advance("8m")
        assert (route.state, route.reason) == ("waiting", "SinkUnavailable: away")
        assert (route.queue, route.unacked) == ([message], [])
        route.advance("8m")
        assert message.deliveries == 1, "in no loop"
        route.sink.heal()
        route.settle()
        assert (route.state, route.queue, message.deliveries) == ("running", [], 2)


def test_a_sink_that_never_comes_back_is_told():
    with Harness(size=1) as route:
        route.sink.fail(SinkBlockedError("read-only"), times=None)
        publish(route, 1)
        with pytest.raises(AssertionError, match=r"not settled within 1h: 1 in the queue, .* read-only"):
            route.settle()


def test_a_sink_that_will_never_work_stops_the_route():
    with Harness(size=1) as route:
        route.sink.fail(UnrecoverableError("wrong for ever"), times=None)
        publish(route, 1)
        route.advance("1h")
        assert (route.state, route.reason, len(route.queue)) == ("stopped", "wrong for ever", 1)


def test_a_lost_reply_duplicates_nothing():
    with Harness(size=2) as route:
        route.sink.lose_reply()
        publish(route, 2)
        assert len(route.queue) == 2
        route.settle()
        assert numbers(route.documents) == [0, 1]
        assert route.totals == {"duplicate": 2}


def test_too_large_requests_are_halved():
    with Harness(size=4) as route:
        route.sink.too_large(items=2)
        publish(route, 4)
        assert [len(request) for request in route.sink.requests] == [4, 2, 2]
        route.sink.too_large(size=10)
        route.publish({"n": "long" * 10})
        route.advance(2)
        assert [letter.reason for letter in route.dead_letters] == ["too-large"]


def test_a_request_that_is_refused_as_a_whole_is_bisected():
    with Harness(size=4) as route:
        route.sink.refuse_request("c", "bad")
        for n, name in enumerate("abcd"):
            route.publish({"n": n}, id=name)
        assert numbers(route.documents) == [0, 1, 3]
        assert [letter.reason for letter in route.dead_letters] == ["bad"]


# ── how a process ends ──


def test_after_a_crash_a_new_process_goes_on():
    with Harness(size=3) as route:
        publish(route, 2)
        route.crash()
        assert [message.deliveries for message in route.queue] == [2, 2]
        publish(route, 1)
        assert numbers(route.documents) == [0, 1, 0]


@pytest.mark.parametrize("written", [False, True])
def test_killed_within_a_write_ids_keep_duplicates_away(written):
    with Harness(size=2) as route:
        route.sink.kill(written=written)
        route.publish({"n": 1}, id="a")
        route.publish({"n": 2}, id="b")
        assert len(route.documents) == 2
        assert route.queue == []
        assert route.totals == {"duplicate" if written else "written": 2}


def test_killed_before_its_ack_what_has_no_id_is_there_twice():
    with Harness(size=1) as route:
        route.sink.kill(written=True)
        publish(route, 1)
        assert numbers(route.documents) == [0, 0]


def test_a_crash_at_a_moment_of_ones_own():
    with Harness(size=1) as route:
        route.sink.before = lambda items: route.crash() if len(route.sink.requests) == 1 else None
        publish(route, 1)
        assert len(route.sink.requests) == 2
        assert numbers(route.documents) == [0]


def test_a_stop_writes_groups_without_a_key_and_gives_back_the_others():
    with Harness(size=10) as route:
        publish(route, 3)
        assert route.stop()
        assert route.batches[0].trigger == "shutdown"
        assert route.queue == []
    with Harness(size=10, correlate="header:k") as route:
        publish(route, 3, headers={"k": "a"})
        assert route.stop()
        assert (route.batches, len(route.queue), route.unacked) == ([], 3, [])
        publish(route, 1, headers={"k": "a"})
        assert len(route.queue) == 4, "nobody takes it"
        route.start()
        assert len(route.unacked) == 4
        with pytest.raises(RuntimeError, match="a process runs"):
            route.start()


def test_a_stop_has_its_grace_and_no_more():
    with Harness(size=1) as route:
        route.sink.fail(times=None)
        publish(route, 1)
        before = route.clock.monotonic()
        assert not route.stop(grace="10s")
        assert route.clock.monotonic() == before + 10
        assert (len(route.queue), route.unacked) == (1, [])


def test_a_kill_while_it_stops():
    with Harness(size=5) as route:
        publish(route, 1)
        route.sink.kill(written=True)
        assert not route.stop()
        assert (len(route.queue), route.unacked) == (1, [])
        route.start()
        assert len(route.unacked) == 1


def test_groups_are_forced():
    with Harness(size=5, correlate="header:k") as route:
        for key in "abc":
            publish(route, 1, headers={"k": key})
        assert route.force("a", "x") == 1
        assert [(batch.key, batch.trigger) for batch in route.batches] == [("a", "forced")]
        assert route.force() == 2
        assert repr(route.batches[1]) == "<forced of 'b', part 1: [{'n': 0}]>"


def test_killed_between_the_acks_of_a_counted_group_its_document_stays_one():
    settings = {"correlate": "header:k", "sentinel": "type=end", "sentinel_count": "n", "aggregate": "list"}
    with Harness(**settings, links=2) as route:
        route.sink.kill(written=True)
        publish(route, 3, headers={"k": "a"})
        route.publish("end", id="e", type="end", headers={"k": "a", "n": 3})
        route.settle()  # the sentinel is acked later
        assert len(route.documents) == 1
        assert route.queue == []


# ── own sinks ──


class OwnSink:
    """Takes what has a number."""

    limits = Limits(items=2)

    def __init__(self):
        self.stored, self.opened, self.closed = {}, 0, 0

    def open(self):
        self.opened += 1

    def write(self, items):
        return [self._take(item) for item in items]

    def _take(self, item):
        document = orjson.loads(item.document)
        if not isinstance(document["n"], int):
            return Verdict(Fate.DEAD_LETTER, "no-number")
        self.stored[item.id] = document
        return WRITTEN

    def close(self):
        self.closed += 1

    def where(self):
        return "here"


def test_an_own_sink_is_opened_written_and_closed():
    sink = OwnSink()
    with Harness(size=3, sink=sink, stored=lambda: sink.stored) as route:
        publish(route, 2)
        route.publish({"n": "x"})
        assert [len(request) for request in route.sink.requests] == [2, 1]
        assert numbers(route.documents) == [0, 1]
        assert [letter.reason for letter in route.dead_letters] == ["no-number"]
        route.sink.fail()  # and it may be made to fail like any other
        publish(route, 3)
        route.settle()
        assert len(sink.stored) == 5
        assert route.sink.where() == "here"
    assert (sink.opened, sink.closed) == (1, 1)


def test_a_sink_by_its_url(tmp_path):
    with Harness(size=1, sink=f"jsonl:////{tmp_path}/out?fsync=false") as route:
        publish(route, 2)
    (file,) = (tmp_path / "out").glob("*.jsonl")
    assert len(file.read_bytes().splitlines()) == 2


def test_a_store_that_is_there_already():
    store = MemorySink(store={"a": b'{"n":0}'})
    with Harness(size=2, sink=store) as route:
        route.publish({"n": 1}, id="a")
        route.publish({"n": 2}, id="b")
        assert route.totals == {"duplicate": 1, "written": 1}
        assert store.stored["a"] == b'{"n":0}'


# ── what it is not ──


def test_it_imports_no_broker_no_test_runner_and_only_what_is_used():
    code = (
        "import sys, aggregator.testing.memory; print('aggregator.config' in sys.modules);"
        "from aggregator.testing import Harness; print({'kombu', 'pytest', 'consumers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "set()"]


def test_every_name_is_there():
    assert all(getattr(aggregator.testing, name) for name in aggregator.testing.__all__)
    with pytest.raises(AttributeError, match="Harnes"):
        _ = aggregator.testing.Harnes
