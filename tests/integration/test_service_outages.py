"""Elasticsearch away for longer than the broker lets a delivery be unacked: nothing is dropped."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pytest

from tests.servers.base import wait_for
from tests.service import channel_of

pytestmark = pytest.mark.integration

DEADLINE_MS = 4_000


@pytest.fixture
def _impatient(rabbitmq):
    """A broker that takes back what is unacked for 4 s; it looks every second."""
    rabbitmq.set_env("consumer_timeout", str(DEADLINE_MS))
    yield
    rabbitmq.heal()
    rabbitmq.set_env("consumer_timeout", "1800000")


def delivery_counts(stage, number):
    """Take some messages, look how often they were delivered, and let them go back."""
    with channel_of(stage.rabbitmq.url) as channel:
        messages = [channel.basic_get(stage.queue) for _ in range(number)]
        return [(message.headers or {}).get("x-delivery-count", 0) for message in messages]


def away_for(running, seconds):
    """Wait until the sink was still away so long after the route began to wait for it."""
    began = moment(running.events("route_waits")[0])
    wait_for(
        lambda: any(moment(line) - began >= seconds for line in running.events("sink_away")),
        f"{seconds} s of absence",
    )


def moment(line):
    return datetime.fromisoformat(line["timestamp"]).timestamp()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("rabbitmq", "how"),
    [("rabbitmq4", "kill"), ("rabbitmq4", "pause"), ("rabbitmq", "kill")],
    indirect=["rabbitmq"],
)
def test_longer_than_the_ack_deadline(stage, how):
    stage.declare("quorum")
    stage.publish(stage.numbered(range(100)))
    flags = ("--size", "50", "--prefetch", "40", "--age", "500ms", "--retry-max", "1s")
    deadline = ("--ack-deadline", f"{DEADLINE_MS}ms", "--metrics-port", "0")
    running = stage.start(*flags, *deadline, sink=stage.sink(options="?timeout=1s"))
    stage.wait_written(100)
    stage.wait_empty()
    assert running.ready() == (200, "ok\n")

    getattr(stage.elasticsearch, how)()
    stage.publish(stage.numbered(range(100, 400)))
    running.wait_event("route_waits")
    # all is given back at once, and nobody takes it: no loop of deliveries
    stage.wait_counts(
        "all given back", lambda counts: (counts.ready, counts.unacked, counts.consumers) == (300, 0, 0)
    )
    code, why = running.ready()
    assert code == 503
    assert "waiting" in why
    away_for(running, 2 * DEADLINE_MS / 1000)
    counts = delivery_counts(stage, 250)
    assert max(counts) <= 2, counts

    stage.elasticsearch.heal()
    stage.wait_written(400)
    stage.wait_empty()
    assert stage.numbers() == Counter(range(400))
    assert not stage.dead()
    assert running.ready() == (200, "ok\n")
    assert not running.events("link_lost")
    assert running.stop() == 0


@pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)
def test_a_short_outage_is_waited_out(stage):
    """Shorter than a quarter of the deadline: what is held stays here, and is sent again."""
    stage.publish(stage.numbered(range(20)))
    running = stage.start(
        "--size", "20", "--retry-first", "50ms", "--retry-max", "200ms", "--metrics-port", "0"
    )
    running.wait_event("batch")
    stage.elasticsearch.kill()
    stage.publish(stage.numbered(range(20, 40)))
    running.wait_event("sink_refuses")
    stage.elasticsearch.start()
    running.wait_event("sink_answers")
    stage.wait_empty()
    assert stage.numbers() == Counter(range(40))
    assert not running.events("route_waits")
    assert running.metric("aggregator_retries_total") >= 20
    assert running.stop() == 0
