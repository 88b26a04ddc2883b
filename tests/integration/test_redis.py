"""Redis: as the store of seen ids, as the broker; away, unfit, or without rights."""

from __future__ import annotations

import uuid
from collections import Counter
from contextlib import contextmanager

import orjson
import pytest
from redis import Redis as Client

from consumers.connecting import Broker
from consumers.transports import register
from tests.servers.base import wait_for
from tests.service import outgoing, publish

pytestmark = pytest.mark.integration


@pytest.fixture
def queue():
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def client(redis):
    with Client.from_url(redis.url) as client:
        yield client


@pytest.fixture
def broker(tmp_path):
    register()
    return f"sqlite-queue:///{tmp_path}/queue.db"


@contextmanager
def policy(client, name):
    """Have the server throw keys away by this policy, for a while."""
    client.config_set("maxmemory-policy", name)
    try:
        yield
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def lines(folder):
    """Return how often each number was written; this sink knows no ids."""
    texts = [line for file in folder.glob("out/*.jsonl") for line in file.read_text().splitlines()]
    return Counter(orjson.loads(line)["number"] for line in texts)


def flags(broker, queue, *more):
    return (
        "--broker",
        broker,
        "--queue",
        queue,
        "--size",
        "50",
        "--sink",
        "jsonl:///out?fsync=false&envelope=false",
        *more,
    )


def numbered(queue, numbers):
    return [outgoing(queue, number) for number in numbers]


# ── seen ids ──


def test_what_one_process_has_written_no_other_writes(service, tmp_path, redis, broker, queue):
    seen = ("--seen", f"{redis.url}?prefix={queue}&interval=100ms")
    publish(broker, queue, numbered(queue, range(200)))
    first = service(*flags(broker, queue, "--until-empty", *seen), folder=tmp_path)
    assert first.wait() == 0
    publish(broker, queue, numbered(queue, range(100, 300)))
    second = service(*flags(broker, queue, "--until-empty", *seen), folder=tmp_path)
    assert second.wait() == 0
    assert lines(tmp_path) == Counter(range(300))
    assert "100 written" in second.output
    assert "100 duplicate" in second.output


def test_killed_after_the_write_only_the_sink_sees_it_again(service, tmp_path, redis, broker, queue):
    seen = ("--seen", f"{redis.url}?prefix={queue}")
    publish(broker, queue, numbered(queue, range(2_000)))
    for batches in (3, 1, 8):
        running = service(*flags(broker, queue, *seen), folder=tmp_path)
        running.wait_event("batch", batches)
        running.kill()
    last = service(*flags(broker, queue, "--until-empty", *seen), folder=tmp_path)
    assert last.wait() == 0
    written = lines(tmp_path)
    assert set(written) == set(range(2_000))
    # at each of the kills as much as was under way may be written once more, and no more
    assert sum(written.values()) - 2_000 <= 3 * 4 * 50


def test_while_redis_is_away_everything_is_written(service, tmp_path, redis, broker, queue):
    publish(broker, queue, numbered(queue, range(100)))
    seen = ("--seen", f"{redis.url}?prefix={queue}&timeout=200ms&interval=100ms", "--age", "100ms")
    running = service(*flags(broker, queue, *seen), "--metrics-port", "0", folder=tmp_path)
    running.wait_event("batch", 2)
    running.wait_metric("aggregator_seen_ids_total", lambda count: count >= 100, outcome="entered")
    redis.pause()
    running.wait_event("seen_store_away")
    publish(broker, queue, numbered(queue, range(100, 300)))
    running.wait_event("batch", 6)
    redis.resume()
    running.wait_event("seen_store_back")
    running.wait_metric("aggregator_seen_ids_total", lambda count: count >= 300, outcome="entered")
    publish(broker, queue, numbered(queue, range(300)))
    running.wait_metric("aggregator_deliveries_total", lambda count: count == 300, verdict="duplicate")
    assert running.stop() == 0
    assert lines(tmp_path) == Counter(range(300))
    assert len(running.events("seen_store_away")) == 1


@pytest.mark.parametrize("kind", ["policy", "password", "rights"])
def test_an_unfit_store_is_refused_at_the_start(request, service, tmp_path, client, kind):
    queue, broker = (request.getfixturevalue(name) for name in ("queue", "broker"))
    url, word = request.getfixturevalue("redis").url, ""
    user = f"u{uuid.uuid4().hex[:8]}"
    client.acl_setuser(user, enabled=True, passwords=["+hunter2"], keys=["other:*"], commands=["+@all"])
    try:
        if kind == "password":
            url, word = url.replace("//", f"//{user}:WRONG@"), "user and password have to be right"
        elif kind == "rights":
            url, word = url.replace("//", f"//{user}:hunter2@"), "docs/redis.md"
        with policy(client, "allkeys-lru" if kind == "policy" else "noeviction"):
            word = word or "maxmemory-policy allkeys-lru: it may throw away any key; noeviction"
            running = service(*flags(broker, queue, "--seen", f"{url}?prefix={queue}"), folder=tmp_path)
            (line,) = running.wait_event("route_stopped")
            assert running.wait() == 1
    finally:
        client.acl_deluser(user)
    assert "seen: Redis at" in line["reason"]
    assert word in line["reason"]
    assert "hunter2" not in running.last_words()
    assert "WRONG" not in running.last_words()


# ── the broker ──


def test_what_a_killed_process_held_comes_again(service, tmp_path, redis, queue):
    publish(redis.url, queue, numbered(queue, range(100)))
    ends = ("--broker", redis.url, "--queue", queue)
    running = service(
        *ends, "--size", "150", "--prefetch", "150", "--age", "10m", "--metrics-port", "0", folder=tmp_path
    )
    running.wait_metric("aggregator_held_messages", lambda held: held == 100)
    running.kill()
    # it is the one that looks who says how long is too long
    broker = f"{redis.url}?visibility_timeout=2s"
    again = service(*flags(broker, queue, "--ack-deadline", "2s", "--age", "500ms"), folder=tmp_path)
    again.wait_event("batch", 2)
    assert again.stop() == 0
    assert lines(tmp_path) == Counter(range(100))


@pytest.mark.parametrize("prefix", ["", "my:"])
def test_what_is_taken_is_noted_before_anybody_has_read_it(redis, client, queue, prefix):
    url = f"{redis.url}?global_keyprefix={prefix}" if prefix else redis.url
    publish(url, queue, numbered(queue, range(3)))
    name = f"{prefix}unacked"
    before = client.hlen(name)
    with Broker(url).connection() as connection:
        consumer = connection.channel()
        consumer.basic_consume(queue, no_ack=False, callback=lambda _message: None, consumer_tag="t")
        connection.transport.cycle.on_poll_start()  # asked; whatever is answered stays in the socket
        wait_for(lambda: client.llen(f"{prefix}{queue}") == 2, "the message to be taken")
        assert client.hlen(name) == before + 1
        found = [orjson.loads(value)[1:] for value in client.hvals(name)]
        assert ["", queue] in found
        consumer._in_poll = None  # as after a kill: nobody reads it
        consumer.client.connection.disconnect()
    tag = next(tag for tag, value in client.hgetall(name).items() if orjson.loads(value)[2] == queue)
    with Broker(url).connection() as connection:
        connection.default_channel.qos.restore_by_tag(tag.decode())
    assert client.llen(f"{prefix}{queue}") == 3


def test_a_server_that_throws_keys_away_is_no_broker(service, tmp_path, redis, client, queue):
    with policy(client, "allkeys-lru"):
        running = service(*flags(redis.url, queue), folder=tmp_path)
        (line,) = running.wait_event("route_stopped")
        assert running.wait() == 1
    assert "maxmemory-policy allkeys-lru" in line["reason"]
    assert "noeviction is needed" in line["reason"]
