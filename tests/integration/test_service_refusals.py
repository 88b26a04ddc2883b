"""Bad messages: exactly those are dead-lettered, each with its reason, and all others are written."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from producers import load
from producers.shapes import Shape, messages
from tests.service import channel_of

pytestmark = pytest.mark.integration

REASON = "x-aggregator-reason"
#: The reason for each kind of bad message that the load producer makes.
REASONS = {
    "bad-json": "bad-json",
    "charset": "bad-json",
    "nan": "bad-json",
    "binary": "binary",
    "empty": "empty-body",
}


def test_one_in_a_hundred_is_bad(stage):
    count, bad = 4_000, 0.01
    flags = ["--count", str(count), "--bad", str(bad), "--seed", "3", "--queue-type", "quorum"]
    assert load.main(["--broker", stage.rabbitmq.url, "--queue", stage.queue, *flags]) == 0
    made = list(messages(Shape(stage.queue, count, "seed3", seed=3, bad=bad), 0, count))
    kinds = {
        m.id: m.message.properties["headers"]["x-bad"] for m in made if "headers" in m.message.properties
    }
    assert len(set(kinds.values())) == 5

    running = stage.start("--size", "100", "--until-empty")
    assert running.wait() == 0

    stage.wait_empty()
    dead = stage.dead()
    assert Counter(m.properties["message_id"] for m in dead) == Counter(kinds.keys())
    for message in dead:
        kind = kinds[message.properties["message_id"]]
        assert message.headers["x-bad"] == kind
        assert message.headers[REASON] == REASONS[kind], message.headers
        assert message.headers["x-aggregator-queue"] == stage.queue
    good = {m.id for m in made} - kinds.keys()
    assert {d["id"] for d in stage.documents()} == good
    assert f"{len(good)} written" in running.output
    assert f"{len(kinds)} dead_lettered" in running.output


def test_documents_that_elasticsearch_refuses(stage):
    """A mapping that does not fit: the refused leave, their neighbours in the request are written."""
    mapping = {
        "mappings": {
            "dynamic": "strict",
            "properties": {"number": {"type": "long"}, "text": {"type": "text"}, "when": {"type": "date"}},
        },
        "settings": {"number_of_replicas": 0},
    }
    stage.elasticsearch.call("PUT", f"/{stage.index}", mapping)
    refused = {
        3: {"number": 3, "when": "not a date, SECRET"},
        14: {"number": "SECRET"},
        27: {"number": 27, "unknown": "SECRET"},
    }
    stage.publish(
        message
        for number in range(60)
        for message in stage.numbered(
            [number], body=orjson.dumps(refused[number]) if number in refused else None
        )
    )
    running = stage.start("--size", "20", "--until-empty")
    assert running.wait() == 0
    dead = {m.properties["message_id"]: m.headers for m in stage.dead()}
    assert set(dead) == {f"{stage.queue}-{number}" for number in refused}
    reasons = {int(name.rpartition("-")[2]): headers[REASON] for name, headers in dead.items()}
    assert reasons == {
        3: "document_parsing_exception",
        14: "document_parsing_exception",
        27: "strict_dynamic_mapping_exception",
    }
    for headers in dead.values():
        assert headers["x-aggregator-status"] == 400
        assert headers["x-aggregator-first"]
    assert stage.numbers() == Counter(set(range(60)) - refused.keys())
    assert "SECRET" not in str(running.log)
    assert "SECRET" not in str(dead)


def test_a_wave_of_refusals_stops_the_route_instead_of_emptying_the_queue(stage):
    """Most are refused: the fault is in the configuration, and the messages stay."""
    stage.publish(stage.numbered(range(600), body=b"{"))
    running = stage.start("--size", "20", "--metrics-port", "0")
    (said,) = running.wait_event("route_stopped")
    assert "bad-json" in said["reason"]
    stage.wait_counts("all given back", lambda counts: not counts.unacked)
    # it stays: whoever restarts processes would have it refuse some more each time
    status, words = running.ready()
    assert status == 503
    assert "bad-json" in words
    assert running.stop() == 1
    dead = len(stage.dead())
    assert 0 < dead < 200
    assert stage.counts().ready == 600 - dead


def test_a_message_at_its_delivery_limit_leaves_before_the_broker_drops_it(stage):
    """A quorum queue counts deliveries; RabbitMQ 4 drops silently what was delivered too often."""
    stage.declare("quorum")
    stage.publish(stage.numbered([1]))
    with channel_of(stage.rabbitmq.url) as channel:
        for _ in range(15):
            message = channel.basic_get(stage.queue)
            while message is None:
                message = channel.basic_get(stage.queue)
            channel.basic_reject(message.delivery_tag, requeue=True)
    stage.publish(stage.numbered([2]))
    assert stage.start("--until-empty").wait() == 0
    (dead,) = stage.dead()
    assert dead.properties["message_id"] == f"{stage.queue}-1"
    assert dead.headers[REASON] == "delivery-limit"
    assert dead.headers["x-aggregator-delivery-count"] == 15
    assert stage.numbers() == Counter([2])
