"""Batches and groups over real brokers: even, complete, by the key that was asked for."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

import orjson
import pytest

from consumers.publisher import Outgoing
from producers import load
from tests.elasticsearch_proxy import proxy
from tests.service import channel_of

pytestmark = pytest.mark.integration
#: The broker's version makes no difference.
on_one_broker = pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)

KEYS = [f"k{number}" for number in range(8)]
MEMBERS = 5


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_even_batches_each_message_once(stage, kind):
    stage.declare(kind)
    stage.publish(stage.numbered(range(2_000)))
    running = stage.start("--size", "100", "--age", "30s", "--until-empty")
    assert running.wait() == 0
    assert running.batches() == [("size", 100)] * 20
    assert stage.numbers() == Counter(range(2_000))
    stage.wait_empty()


def members(stage, numbers, by):
    """Return messages of the keys in turn, each with its key where ``by`` has it."""
    made = []
    for number in numbers:
        key = KEYS[number % len(KEYS)]
        body = orjson.dumps({"number": number, "order": {"id": key}})
        more = {"headers": {"order": key}} if by.startswith("header") else {}
        if by == "correlation_id":
            more["correlation_id"] = key
        (message,) = stage.numbered([number], body=body, **more)
        if by == "routing_key":
            message = Outgoing("amq.topic", f"{stage.queue}.{key}", message.body, message.properties)
        made.append(message)
    return made


def groups(running):
    found = defaultdict(list)
    for line in running.events("batch_key"):
        found[line["key"].rpartition(".")[2]].append((line["trigger"], line["messages"], line["complete"]))
    return found


@pytest.mark.parametrize("by", ["header:order", "correlation_id", "routing_key", "/order/id"])
def test_by_what_messages_belong_together(stage, by):
    stage.declare()
    with channel_of(stage.rabbitmq.url) as channel:
        channel.queue_bind(stage.queue, "amq.topic", f"{stage.queue}.*")
    stage.publish(members(stage, range(len(KEYS) * MEMBERS), by))
    running = stage.start("--correlate", by, "--size", str(MEMBERS), "--age", "60s", "--until-empty")
    assert running.wait() == 0
    assert groups(running) == {key: [("size", MEMBERS, True)] for key in KEYS}
    assert stage.numbers() == Counter(range(len(KEYS) * MEMBERS))


@on_one_broker
@pytest.mark.parametrize("trigger", ["age", "idle"])
def test_groups_that_are_not_filled_go_by_time(stage, trigger):
    stage.publish(members(stage, range(len(KEYS) * 3), "header:order"))
    times = {"age": "60s", "idle": "30s", trigger: "400ms"}
    running = stage.start(
        *("--correlate", "header:order", "--size", str(MEMBERS), "--until-empty"),
        *("--age", times["age"], "--idle", times["idle"]),
    )
    assert running.wait() == 0
    assert groups(running) == {key: [(trigger, 3, False)] for key in KEYS}
    assert stage.numbers() == Counter(range(len(KEYS) * 3))


@on_one_broker
@pytest.mark.parametrize("counted", [True, False])
def test_sentinels_end_their_groups(stage, counted):
    """Sentinels run ahead of members when several connections publish: the count tells."""
    flags = ["--count", "600", "--keys", "20", "--sentinels", "--connections", "1", "--seed", "5"]
    assert load.main(["--broker", stage.rabbitmq.url, "--queue", stage.queue, *flags]) == 0
    count = ("--sentinel-count", "count") if counted else ("--sentinel-grace", "2s")
    running = stage.start(
        *("--correlate", "correlation_id", "--sentinel", "type=sentinel", *count, "--prefetch", "200"),
        *("--size", "off", "--age", "60s", "--until-empty", "--metrics-port", "0"),
    )
    assert running.wait() == 0
    assert groups(running) == {f"key-{number}": [("sentinel", 30, True)] for number in range(20)}
    assert stage.numbers() == Counter(range(600))
    assert "20 control" in running.output
    stage.wait_empty()


@on_one_broker
def test_more_open_groups_than_the_prefetch_holds(stage):
    """Pressure: the oldest groups go in parts; nothing stalls until some time has passed."""
    keys, held = 100, 2 * 20
    messages = [m for n in range(500) for m in stage.numbered([n], correlation_id=f"k{n % keys}")]
    stage.publish(messages)
    flags = ("--size", "5", "--age", "10m", "--workers", "2", "--prefetch", "20")
    running = stage.start("--correlate", "correlation_id", *flags)
    stage.wait_counts("the rest to be held", lambda c: not c.ready and c.unacked < held)
    stage.wait_written(500 - held + 1)
    assert running.stop() == 0
    assert {trigger for trigger, _ in running.batches()} <= {"pressure", "size"}
    written = stage.numbers()
    assert max(written.values()) == 1
    stage.wait_counts("the rest to come back", lambda c: c.ready == 500 - len(written) and not c.unacked)


@on_one_broker
def test_what_is_held_is_bounded_and_the_heart_beats_on(stage):
    """A sink that hangs, big messages: no more is read, no heartbeat is missed."""
    size, count, bound = 100_000, 100, 1_000_000
    text = "x" * size
    messages = [
        message
        for number in range(count)
        for message in stage.numbered([number], body=orjson.dumps({"number": number, "text": text}))
    ]
    stage.publish(messages)
    answer = threading.Event()

    def change(*content):
        answer.wait(60)
        return content

    unsearched = {"type": "keyword", "index": False, "doc_values": False}
    mapping = {"mappings": {"properties": {"text": unsearched}}}
    stage.elasticsearch.call("PUT", f"/{stage.index}", mapping)
    with proxy(stage.elasticsearch.url, change=change) as sink:
        running = stage.start(
            *("--size", "5", "--workers", "1", "--prefetch", str(count), "--max-held", str(bound)),
            *("--heartbeat", "1s", "--age", "60s", "--metrics-port", "0"),
            sink=stage.sink(sink.url, "?timeout=4s"),
        )
        # longer than two heartbeats
        running.wait_event("sink_refuses")
        held = running.metric("aggregator_held_bytes")
        assert bound <= held < bound + 2**20 + 2 * size
        assert not running.events("link_lost")
        answer.set()
        stage.wait_written(count)
        stage.wait_empty()
        assert running.stop() == 0
    assert not running.events("link_lost")
    assert stage.numbers() == Counter(range(count))
