"""What the harness is there for: broken code does not pass it."""

from __future__ import annotations

import re

import pytest

from aggregator.delivery import Settlement, Shared
from aggregator.pipeline import Pipeline
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.testing import Harness, MemorySink
from aggregator.testing.broker import MemoryBroker
from aggregator.testing.script import ScriptedSink


def run(messages=4, **settings):
    with Harness(**{"size": 2, **settings}) as route:
        for n in range(messages):
            route.publish({"n": n}, id=f"m{n}")
        route.advance(10)


def fault(*lines):
    """Expect these lines, one after the other, among the faults."""
    return pytest.raises(AssertionError, match=r"(?s)" + ".*".join(map(re.escape, lines)))


def test_what_works_passes():
    run()


# ── sinks ──


class Losing(MemorySink):
    """Claims that everything is written, and loses the second item of each request."""

    def write(self, items):
        super().write(items[:1])


class TooShort(MemorySink):
    def write(self, items):
        super().write(items)
        return [WRITTEN]


class Nonsense(MemorySink):
    def write(self, items):
        return ["ok", "ok"]


class Asserting(MemorySink):
    def write(self, items):
        assert len(items) == 3, "three are expected"


def test_a_sink_that_claims_none_but_loses():
    with fault("the sink said that 'm1' stands in it, and it does not", "'m3'"):
        run(sink=Losing())


def test_a_function_that_loses_where_one_can_look():
    kept = {}

    def write(items):
        kept.update({item.id: item for item in items if item.id != "m2"})

    with fault("the sink said that 'm2' stands in it, and it does not"):
        run(sink=write, stored=lambda: kept)


def test_a_sink_that_returns_too_few_verdicts():
    with fault("the sink gave 1 verdicts for 2 items"):
        run(sink=TooShort())


def test_a_sink_that_returns_something_else():
    with fault("the sink gave 'ok' where a Verdict is needed"):
        run(sink=Nonsense())


def test_an_assertion_in_a_sink_does_not_vanish():
    with fault("the sink raised AssertionError: three are expected"):
        run(sink=Asserting())


def test_an_assertion_in_a_function_does_not_vanish():
    def write(items):
        assert len(items) == 3, "three are expected"

    with fault("the sink raised AssertionError: three are expected"):
        run(sink=write)


def test_a_sink_that_misjudges_is_within_its_rights():
    class Refusing(MemorySink):
        limits = Limits()

        def write(self, items):
            return [Verdict(Fate.DEAD_LETTER, "no") for _ in items]

    run(sink=Refusing())


# ── the core ──


def test_ack_on_receipt(monkeypatch):
    accept = Pipeline.accept

    def acks(self, deliveries):
        for delivery in deliveries:
            delivery.link.settle([delivery], Settlement.ACK)
            delivery.link.perform(None)
        accept(self, deliveries)

    monkeypatch.setattr(Pipeline, "accept", acks)
    with fault("message 0 (id 'm0'): acked, and nothing has become", "message 0 (id 'm0'): settled twice"):
        run()


def test_an_ack_before_the_write_is_over(monkeypatch):
    write = ScriptedSink.write

    def early(self, items):
        for item in items:
            item.link.channel.basic_ack(item.tag)
        return write(self, items)

    monkeypatch.setattr(ScriptedSink, "write", early)
    with fault("message 0 (id 'm0'): acked, though nobody asked for it", "nothing has become of it"):
        run()


def test_an_item_that_is_sent_again_though_it_was_written(monkeypatch):
    write = ScriptedSink.write

    def twice(self, items):
        write(self, items)
        return write(self, items)

    monkeypatch.setattr(ScriptedSink, "write", twice)
    with fault("message 0 (id 'm0'): handed out once", "ended more than once (written 1x, duplicate 1x)"):
        run()


def test_a_settlement_over_another_link():
    with Harness(size=2, links=2) as route:
        first, second = (worker.link for worker in route._process.workers)
        route.publish({"n": 1})
        (delivery,) = (delivery for _, delivery in first.channel.unacked.values())
        second.settle([delivery], Settlement.ACK)
        with fault("message 0: settled on a link that did not bring it"):
            route.verify()
        route.faults.clear()
        second._asked.clear()


def test_a_settlement_over_a_dead_link():
    with Harness(size=2) as route:
        route.publish({"n": 1})
        (worker,) = route._process.workers
        link = worker.link
        (delivery,) = (delivery for _, delivery in link.channel.unacked.values())
        route.lose_link()
        link.settle([delivery], Settlement.ACK)
        with fault("message 0: settled on a dead link"):
            route.verify()
        route.faults.clear()


def test_a_tag_that_the_broker_does_not_know():
    with Harness(size=2) as route:
        (worker,) = route._process.workers
        worker.link.channel.basic_ack(7)
        worker.link.channel.basic_reject(8, requeue=True)
        with fault("406: unknown delivery tag 7", "406: unknown delivery tag 8"):
            route.verify()
        route.faults.clear()


def test_a_message_that_vanishes(monkeypatch):
    monkeypatch.setattr(MemoryBroker, "take_back", lambda self, messages: None)
    with fault("message 0 (id 'm0'): lost, neither in the queue nor acked"), Harness(size=2) as route:
        route.publish({"n": 0}, id="m0")
        route.lose_link()


def test_a_document_of_many_that_is_acked_too_early(monkeypatch):
    """The group's messages stand in each of its documents; the second of these is still put off."""
    settings = {
        "correlate": "header:k",
        "aggregate": "function:tests.models:halves",
    }

    def group():
        with Harness(size=2, **settings) as route:
            route.sink.retry(lambda document: document["half"] == 2)
            for n in range(2):
                route.publish({"n": n}, headers={"k": "a"})
            assert len(route.queue) == 2
            route.settle()
            assert [document["half"] for document in route.documents] == [1, 2]
            assert route.queue == []

    group()
    settle = Shared.settle

    def hasty(self, badness, word):
        settle(self, badness, word)
        return True

    monkeypatch.setattr(Shared, "settle", hasty)
    with pytest.raises(AssertionError, match="assert 0 == 2"):
        group()


def test_a_loop_without_end():
    with Harness(size=1) as route:
        route._process.pipeline.accept = lambda deliveries: route._process.workers[0].lose()
        with pytest.raises(AssertionError, match="work without end"):
            route.publish({"n": 1})
        route._process.die()


def test_what_is_due_and_not_done():
    with Harness(size=5) as route:
        route.publish({"n": 1})
        route._process.pipeline.step = lambda: False
        with pytest.raises(AssertionError, match="something is due, and nothing is done"):
            route.advance("1m")


def test_a_failing_block_is_not_covered_up():
    route = Harness()
    route.faults.append("a fault")
    with pytest.raises(ZeroDivisionError), route:
        _ = 1 / 0
