"""The end: on a signal what is held is written and acked; what cannot be goes back to the broker."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.elasticsearch_proxy import slow

pytestmark = pytest.mark.integration
#: The broker's version makes no difference.
on_one_broker = pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)


def given_back(stage, ready):
    stage.wait_counts(f"{ready} given back", lambda counts: counts.ready == ready and not counts.unacked)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_idle(stage, number):
    stage.declare()
    running = stage.start("--age", "60s")
    running.wait_event("route_runs")
    stage.wait_counts("five consumers", lambda counts: counts.consumers == 5)
    assert running.stop(number) == 0
    assert running.events("stopped", settled=True, threads_ended=True)
    assert stage.counts().consumers == 0


def test_a_half_full_buffer_is_flushed(stage):
    stage.publish(stage.numbered(range(30)))
    running = stage.start("--size", "50", "--age", "60s", "--metrics-port", "0")
    running.wait_metric("aggregator_held_messages", lambda held: held == 30)
    assert running.stop() == 0
    assert running.batches() == [("shutdown", 30)]
    assert stage.numbers() == Counter(range(30))
    given_back(stage, 0)


def test_a_request_that_is_under_way_is_waited_for(stage):
    stage.publish(stage.numbered(range(25)))
    with slow(stage.elasticsearch.url) as sink:
        running = stage.start("--size", "10", "--age", "60s", sink=stage.sink(sink.url))
        assert sink.asked.wait(60)
        running.send()
        running.wait_event("stopping")
        sink.answer.set()
        assert running.wait() == 0
    assert sorted(running.batches()) == [("shutdown", 5), ("size", 10), ("size", 10)]
    assert stage.numbers() == Counter(range(25))
    given_back(stage, 0)


def test_a_sink_too_slow_for_the_grace_loses_nothing(stage):
    stage.publish(stage.numbered(range(25)))
    with slow(stage.elasticsearch.url) as sink:
        running = stage.start("--size", "10", "--age", "60s", "--grace", "1s", sink=stage.sink(sink.url))
        assert sink.asked.wait(60)
        assert running.stop() == 0
        assert running.events("grace_over")
    given_back(stage, 25)
    assert stage.start("--until-empty").wait() == 0
    assert stage.numbers() == Counter(range(25))


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_without_the_broker(stage, how):
    stage.publish(stage.numbered(range(30)))
    running = stage.start("--size", "50", "--age", "60s", "--grace", "1s", "--metrics-port", "0")
    running.wait_metric("aggregator_held_messages", lambda held: held == 30)
    if how == "kill":
        stage.rabbitmq.kill()
        running.wait_event("link_lost", 5)
    else:
        stage.rabbitmq.pause()
    running.send()
    assert running.wait() == 0
    stage.rabbitmq.heal()
    stage.wait_counts("the broker", lambda counts: not counts.unacked)
    assert stage.start("--until-empty").wait() == 0
    stage.wait_empty()
    assert stage.numbers() == Counter(range(30))


@on_one_broker
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_without_elasticsearch(stage, how):
    stage.publish(stage.numbered(range(30)))
    running = stage.start("--size", "50", "--age", "60s", "--grace", "1s", "--metrics-port", "0")
    running.wait_metric("aggregator_held_messages", lambda held: held == 30)
    getattr(stage.elasticsearch, how)()
    running.send()
    assert running.wait() == 0
    assert running.events("grace_over")
    given_back(stage, 30)
    stage.elasticsearch.heal()
    assert stage.start("--until-empty").wait() == 0
    assert stage.numbers() == Counter(range(30))


@on_one_broker
def test_before_elasticsearch_was_ever_there(stage):
    stage.publish(stage.numbered(range(3)))
    stage.elasticsearch.kill()
    running = stage.start()
    running.wait_event("sink_away")
    assert running.stop() == 0
    given_back(stage, 3)


def test_a_second_signal_ends_it_at_once(stage):
    stage.publish(stage.numbered(range(25)))
    with slow(stage.elasticsearch.url) as sink:
        running = stage.start("--size", "10", "--grace", "50s", sink=stage.sink(sink.url))
        assert sink.asked.wait(60)
        running.send()
        running.wait_event("stopping")
        running.send()
        assert running.wait(40) == 1
    assert "unacked messages go back to the broker" in running.last_words()
    given_back(stage, 25)


def test_incomplete_groups_with_a_key_are_given_back(stage):
    keyed = [
        message
        for number in range(25)
        for message in stage.numbered([number], correlation_id="whole" if number < 20 else "part")
    ]
    stage.publish(keyed)
    running = stage.start(
        "--correlate", "correlation_id", "--size", "20", "--age", "60s", "--metrics-port", "0"
    )
    running.wait_event("batch_key", key="whole")
    running.wait_metric("aggregator_held_messages", lambda held: held == 5)
    assert running.stop() == 0
    assert running.batches() == [("size", 20)]
    assert stage.numbers() == Counter(range(20))
    given_back(stage, 5)
