"""The broker restarts, dies, freezes, cuts connections: every worker consumes again, nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from tests.elasticsearch_proxy import proxy
from tests.relay import relay

pytestmark = pytest.mark.integration

WORKERS = 5
FLAGS = ("--size", "20", "--age", "300ms", "--heartbeat", "2s", "--metrics-port", "0")


def five_consume(stage):
    stage.wait_counts("five consumers", lambda counts: counts.consumers == WORKERS)


def goes_on(stage, running, start=100, stop=200):
    """Every worker consumes, and what is published now is written, each once."""
    five_consume(stage)
    stage.publish(stage.numbered(range(start, stop)))
    stage.wait_written(stop)
    stage.wait_empty()
    assert stage.numbers() == Counter(range(stop))
    assert running.stop() == 0
    assert not stage.dead()


def started(stage, **options):
    """Return a service that has written 100 messages."""
    stage.publish(stage.numbered(range(100)))
    running = stage.start(*FLAGS, **options)
    stage.wait_written(100)
    return running


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_the_broker_starts_again(stage, how):
    running = started(stage)
    if how == "restart":
        stage.rabbitmq.restart()
    else:
        stage.rabbitmq.kill()
        running.wait_event("link_lost", WORKERS)
        stage.rabbitmq.start()
    goes_on(stage, running)


def test_the_broker_freezes(stage):
    running = started(stage)
    stage.rabbitmq.pause()
    # nobody closes anything: the missing heartbeats tell
    running.wait_event("link_lost", WORKERS)
    stage.rabbitmq.resume()
    goes_on(stage, running)


def test_the_broker_closes_all_connections(stage):
    running = started(stage)
    five_consume(stage)
    stage.rabbitmq.close_all_connections()
    running.wait_event("link_lost", WORKERS)
    goes_on(stage, running)


def test_connections_are_reset(stage):
    with relay(stage.rabbitmq.url) as wire:
        running = started(stage, broker=wire.url)
        five_consume(stage)
        assert wire.reset() >= WORKERS
        running.wait_event("link_lost", WORKERS)
        goes_on(stage, running)


def test_the_queue_is_deleted_and_made_again(stage):
    running = started(stage)
    five_consume(stage)
    stage.rabbitmq.delete_queues(stage.queue)
    running.wait_event("link_lost", WORKERS)
    goes_on(stage, running)


def test_the_channel_is_closed_under_what_is_held(stage):
    """406: the broker takes back what is held; a tag of the old channel must not ack on the new one."""
    stage.rabbitmq.set_env("consumer_timeout", "2000")
    try:
        stage.publish(stage.numbered(range(10)))
        running = stage.start("--size", "20", "--age", "60s", "--metrics-port", "0")
        (lost, *_) = running.wait_event("link_lost", 2)
        assert "PRECONDITION" in lost["problem"]
    finally:
        stage.rabbitmq.set_env("consumer_timeout", "1800000")
    running.wait_metric("aggregator_held_messages", lambda held: held == 10)
    stage.publish(stage.numbered(range(10, 20)))
    running.wait_event("batch", trigger="size", messages=20)
    stage.wait_empty()
    assert stage.numbers() == Counter(range(20))
    assert running.stop() == 0


@pytest.mark.parametrize("first", ["the redelivery", "the verdict"])
def test_a_link_that_is_lost_between_write_and_ack_writes_nothing_twice(stage, first):
    """Documents stand in the index, the ack cannot be sent: what comes again is acked, not written."""
    asked, answer = threading.Event(), threading.Event()

    def change(*content):
        asked.set()
        answer.wait(60)
        return content

    with proxy(stage.elasticsearch.url, change=change) as sink, relay(stage.rabbitmq.url) as wire:
        stage.publish(stage.numbered(range(20)))
        running = stage.start(*FLAGS, sink=stage.sink(sink.url), broker=wire.url)
        assert asked.wait(60)
        assert stage.elasticsearch.count(stage.index) == 20
        if first == "the verdict":
            wire.shut()
        wire.reset()
        running.wait_event("link_lost", WORKERS)
        if first == "the verdict":
            answer.set()
            running.wait_event("batch")
            wire.open()
        else:
            stage.wait_counts("the redelivery", lambda c: (c.unacked, c.consumers) == (20, WORKERS))
            answer.set()
        stage.wait_empty()
        assert len(sink.bulk_bodies()) == 1
        verdict = "duplicate" if first == "the verdict" else "written"
        running.wait_metric("aggregator_deliveries_total", lambda n: n == 20, verdict=verdict)
        # those that were handed out again while other connections were still being reset, included
        received = running.metric("aggregator_received_total")
        running.wait_metric("aggregator_deliveries_total", lambda n: n == received)
        assert running.metric("aggregator_deliveries_total", verdict="given_back") == received - 20
        assert running.stop() == 0
