"""Seen ids: what is asked, what is entered when, and what happens while the store is away."""

from __future__ import annotations

import threading
from collections import Counter
from random import Random

import pytest
from structlog.testing import capture_logs

from aggregator import seen
from aggregator.backoff import Backoff
from aggregator.errors import SinkUnavailableError, UnrecoverableError
from aggregator.seen import SeenIds
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Verdict
from aggregator.sinks.seen import SeenSink
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery
from aggregator.testing.sink import MemorySink
from tests.seen_store import MemorySeen, Server

BACKOFF = Backoff(1.0, 8.0, Random(1))


class Process:
    """One process: its ids, and what was counted."""

    def __init__(self, server, clock=None, make_filter=set):
        self.clock = clock or VirtualClock()
        self.counts = Counter()
        self.entered = set()
        self.store = MemorySeen(server)
        self.ids = SeenIds(
            self.store,
            make_filter,
            interval=1.0,
            backoff=BACKOFF,
            clock=self.clock,
            count=lambda outcome, number: self.counts.update({outcome: number}),
        )
        self.ids.open()
        self.catch_up()

    def catch_up(self):
        """Do all that is due."""
        self.clock.advance(1.0)
        while self.ids.step() <= self.clock.monotonic():
            pass

    def write(self, *ids):
        """As a flush thread does; return what would be sent."""
        known = self.ids.known(ids)
        new = [id_ for id_ in ids if id_ not in known]
        self.ids.wrote(new)
        return new


@pytest.fixture
def server():
    return Server()


def test_what_is_new_is_not_asked_for(server):
    process = Process(server)
    server.calls.clear()
    assert process.write("a", "b") == ["a", "b"]
    assert server.calls == []


def test_one_process_knows_at_once_what_it_has_written(server):
    process = Process(server)
    process.write("a")
    server.calls.clear()
    assert process.write("a", "b") == ["b"]
    assert server.calls == []
    assert process.counts["known"] == 1


def test_ids_enter_after_the_word_on_them_alone(server):
    process = Process(server)
    process.ids.known(["a"])
    process.catch_up()
    assert not server.spans.get(1)
    process.ids.wrote(["a"])
    process.catch_up()
    assert server.spans[1] == {"a"}
    assert process.counts["entered"] == 1


def test_another_process_learns_of_them(server):
    one, other = Process(server), Process(server)
    one.write("a")
    one.catch_up()
    assert other.write("a") == ["a"]  # it has not looked yet: the sink's own check of ids is asked
    third = Process(server)
    assert third.write("a", "z") == ["z"]
    one.write("b")
    one.catch_up()
    third.catch_up()
    server.calls.clear()
    assert third.write("b", "y") == ["y"]
    assert server.calls == ["known"]


def test_a_filter_that_errs_is_corrected(server):
    class Everything(set):
        def __contains__(self, _id):
            return True

    process = Process(server, make_filter=Everything)
    process.write("a")
    process.catch_up()
    assert process.write("b") == ["b"]
    assert process.counts["asked"] == 1


def test_until_the_copy_is_complete_all_are_asked_for(server):
    first = Process(server)
    first.write("a", "b")
    first.catch_up()
    fresh = SeenIds(MemorySeen(server), set, interval=1.0, backoff=BACKOFF, clock=VirtualClock())
    assert not fresh.complete
    assert fresh.known(["a", "z"]) == {"a"}


def test_while_the_store_is_away_everything_is_written_and_nothing_is_asked(server):
    process = Process(server)
    process.write("a")
    process.catch_up()
    server.up = False
    server.calls.clear()
    with capture_logs() as logs:
        assert process.write("a") == ["a"]
        for _ in range(5):
            assert process.write("a", "b") in (["b"], [])  # what it has just written it knows itself
            process.ids.step()
    assert server.calls == ["known"]
    assert [line["event"] for line in logs] == ["seen_store_away"]
    assert process.counts["unasked"] >= 1


def test_a_store_that_is_back_gets_what_was_written_meanwhile(server):
    process = Process(server)
    server.up = False
    process.write("a")
    process.ids.step()
    assert process.ids.pending == 1
    server.up = True
    process.clock.advance(20.0)
    with capture_logs() as logs:
        process.catch_up()
    assert server.spans[1] == {"a"}
    assert process.ids.pending == 0
    assert [line["event"] for line in logs] == ["seen_store_back"]


def test_a_store_without_an_answer_is_told_again(server):
    process = Process(server)
    server.answers = False
    process.write("a")
    process.ids.step()
    assert process.ids.pending == 1
    server.answers = True
    process.clock.advance(20.0)
    process.catch_up()
    assert process.ids.pending == 0
    assert server.spans[1] == {"a"}


def test_a_store_that_lost_all_is_read_anew(server):
    process = Process(server)
    process.write("a")
    process.catch_up()
    server.lose_all()
    with capture_logs() as logs:
        process.catch_up()
    assert [line["event"] for line in logs] == ["seen_ids_loaded"]
    assert process.write("a") == ["a"]


def test_another_life_of_the_store_is_noticed_though_it_has_come_as_far(server):
    one, other = Process(server), Process(server)
    one.write("a")
    one.catch_up()
    other.catch_up()
    server.lose_all()
    for id_ in ("b", "c", "d"):
        one.write(id_)
        one.ids.step()
    other.catch_up()
    assert other.write("b", "c", "d") == []


def test_who_falls_behind_reads_all_anew(server):
    server.feed = 3
    one, other = Process(server), Process(server)
    for number in range(10):
        one.write(str(number))
        one.ids.step()
    other.catch_up()
    assert other.ids.complete
    assert other.write(*map(str, range(10))) == []


def test_the_oldest_span_is_forgotten(server):
    server.most = 2
    process = Process(server)
    with capture_logs() as logs:
        for number in range(12):
            process.write(str(number))
            process.catch_up()
    assert process.write("0", "11") == ["0"]
    assert [line["event"] for line in logs] == ["seen_ids_forgotten_early"]


def test_what_waits_to_be_entered_is_bounded(server, monkeypatch):
    monkeypatch.setattr(seen, "MOST_PENDING", 10)
    process = Process(server)
    server.up = False
    process.write(*map(str, range(25)))
    assert process.ids.pending == 10
    assert process.counts["not-entered"] == 15


def test_a_store_that_comes_back_unfit_ends_it(server):
    process = Process(server)
    server.up = False
    process.catch_up()
    server.up = True
    process.store.unfit = UnrecoverableError("maxmemory-policy")
    process.clock.advance(20.0)
    with pytest.raises(UnrecoverableError):
        process.ids.step()


# ── around a sink ──


def item(name, *, given=True):
    found = MemoryDelivery(b"{}")
    found.id, found.document, found.fingerprint = name, b"{}", 1 if given else 0
    return found


@pytest.fixture
def sink():
    return MemorySink()


@pytest.fixture
def around(sink, server):
    found = SeenSink(sink, MemorySeen(server), set, interval=0.05)
    found.open()
    yield found
    found.close()


def test_the_verdicts_stand_in_their_places(around, sink):
    assert around.write([item("a"), item("b")]) in (None, [WRITTEN, WRITTEN])
    refused = Verdict(Fate.DEAD_LETTER, "bad")
    sink.decide = lambda items: [refused if each.id == "c" else WRITTEN for each in items]
    verdicts = around.write([item("a"), item("c"), item("b"), item("d")])
    assert verdicts == [DUPLICATE, refused, DUPLICATE, WRITTEN]
    assert sink.requests[-1] == ["c", "d"]
    # what was refused has not been written: it is no duplicate
    assert around.write([item("c")]) == [refused]


def test_when_all_are_known_the_sink_is_left_alone(around, sink):
    around.write([item("a")])
    sink.requests.clear()
    assert around.write([item("a")]) == [DUPLICATE]
    assert sink.requests == []


def test_ids_of_our_own_are_none_of_its_business(around, sink):
    for _ in range(2):
        around.write([item("x", given=False)])
    assert len(sink.requests) == 2


def test_a_failed_request_enters_nothing(around, sink):
    def fail(_items):
        raise SinkUnavailableError("away")

    sink.decide, decide = fail, sink.decide
    with pytest.raises(SinkUnavailableError):
        around.write([item("a")])
    sink.decide = decide
    assert around.write([item("a")]) != [DUPLICATE]


def test_too_few_verdicts_are_nobodys(around, sink):
    around.write([item("a")])
    sink.decide = lambda _items: []
    with pytest.raises(SinkUnavailableError, match="0 verdicts for 2 items"):
        around.write([item("a"), item("b"), item("c")])
    assert around.write([item("b")]) == []  # the route sees that there is one too few
    assert around.ids.known(["b", "c"]) == set()


def test_the_end_enters_what_was_written(sink, server):
    around = SeenSink(sink, MemorySeen(server), set, interval=60.0)
    around.open()
    around.write([item(str(number)) for number in range(2500)])
    around.close()
    assert sum(map(len, server.spans.values())) == 2500
    assert not [thread for thread in threading.enumerate() if thread.name == "seen-ids"]


def test_an_unfit_store_is_refused_at_the_start(sink):
    store = MemorySeen()
    store.unfit = UnrecoverableError("seen: maxmemory-policy allkeys-lru")
    with pytest.raises(UnrecoverableError, match="allkeys-lru"):
        SeenSink(sink, store, set).open()
