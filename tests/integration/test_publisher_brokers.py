"""The publisher against real brokers: what is confirmed is in a queue, what is not is told."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager

import pytest
from kombu import Connection

from aggregator.errors import PublisherUnavailableError, UnrecoverableError
from consumers.publisher import Outgoing, Publisher

pytestmark = pytest.mark.integration


@pytest.fixture
def publisher(rabbitmq):
    publisher = Publisher(rabbitmq.url, confirm_timeout=10, window=50)
    yield publisher
    publisher.close()


@pytest.fixture
def queue(rabbitmq):
    """The name of a durable, empty queue."""
    name = f"publisher-{uuid.uuid4().hex[:8]}"
    with channel_of(rabbitmq) as channel:
        channel.queue_declare(queue=name, durable=True, auto_delete=False)
    yield name
    with channel_of(rabbitmq) as channel:
        channel.queue_delete(name)


@contextmanager
def channel_of(server):
    with Connection(server.url) as connection, connection.channel() as channel:
        yield channel


def taken(server, queue):
    """Everything that the queue holds, in order."""
    with channel_of(server) as channel:
        found = []
        while message := channel.basic_get(queue, no_ack=True):
            found.append(message)
        return found


def message(routing_key, number, **properties):
    properties = {"message_id": str(number), "delivery_mode": 2, **properties}
    return Outgoing("", routing_key, b"body %d" % number, properties)


def test_each_of_a_mix_gets_its_own_verdict(rabbitmq, publisher, queue):
    keys = [queue if number % 3 else f"nowhere-{number % 2}" for number in range(1_000)]

    outcomes = publisher.publish([message(key, number) for number, key in enumerate(keys)])

    assert outcomes == [None if key == queue else "unroutable" for key in keys]
    ids = [got.properties["message_id"] for got in taken(rabbitmq, queue)]
    assert ids == [str(number) for number, key in enumerate(keys) if key == queue]


def test_a_headers_exchange_tells_messages_of_one_routing_key_apart(rabbitmq, publisher, queue):
    exchange = f"{queue}-by-header"
    with channel_of(rabbitmq) as channel:
        channel.exchange_declare(exchange, "headers", durable=True, auto_delete=False)
        channel.queue_bind(queue, exchange, arguments={"x-match": "all", "wanted": True})
    wanted = [number % 7 != 0 for number in range(300)]
    sent = [
        Outgoing(exchange, "same", b"same", {"delivery_mode": 2, "headers": {"n": n, "wanted": yes}})
        for n, yes in enumerate(wanted)
    ]

    outcomes = publisher.publish(sent)

    assert outcomes == [None if yes else "unroutable" for yes in wanted]
    assert [got.headers["n"] for got in taken(rabbitmq, queue)] == [n for n, yes in enumerate(wanted) if yes]
    with channel_of(rabbitmq) as channel:
        channel.exchange_delete(exchange)


def test_equal_messages_are_counted_not_merged(rabbitmq, publisher, queue):
    twin = Outgoing("", queue, b"twin", {})
    stray = Outgoing("", "nowhere", b"twin", {})

    outcomes = publisher.publish([twin, stray, twin, stray, stray, twin])

    assert outcomes == [None, "unroutable", None, "unroutable", "unroutable", None]
    assert len(taken(rabbitmq, queue)) == 3


@pytest.mark.parametrize("size", [0, 1, 131_063, 131_064, 131_065, 1_000_000])
def test_bodies_of_any_size_arrive_whole(rabbitmq, publisher, queue, size):
    body = bytes(number % 251 for number in range(size))

    assert publisher.publish([Outgoing("", queue, body, {"type": "t"})]) == [None]

    (got,) = taken(rabbitmq, queue)
    assert bytes(got.body or b"") == body


def test_every_property_arrives_as_it_was(rabbitmq, publisher, queue):
    properties = {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "schlüssel",
        "reply_to": "r",
        "expiration": "600000",
        "message_id": "m",
        "timestamp": 1_700_000_000,
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
        "headers": {"int": 1, "big": 2**40, "text": "ä", "list": [1, "a"], "table": {"x": None}, "yes": True},
    }

    assert publisher.publish([Outgoing("", queue, b"b", properties)]) == [None]

    (got,) = taken(rabbitmq, queue)
    received = dict(got.properties)
    received["headers"] = received.pop("application_headers")
    assert received == properties


def test_what_cannot_be_encoded_holds_up_no_neighbour(rabbitmq, publisher, queue):
    sent = [
        message(queue, 0),
        message(queue, 1, headers={"object": object()}),
        message(queue, 2, headers={"huge": "x" * 200_000}),
        message(queue, 3, message_id="x" * 300),
        message(queue, 4),
    ]

    assert publisher.publish(sent) == [None, "unencodable", "headers-too-large", "unencodable", None]
    assert [got.properties["message_id"] for got in taken(rabbitmq, queue)] == ["0", "4"]


def test_a_full_queue_that_rejects_is_told(rabbitmq, publisher):
    full = f"full-{uuid.uuid4().hex[:8]}"
    publisher.declare_queue(full, arguments={"x-max-length": 3, "x-overflow": "reject-publish"})
    try:
        outcomes = [publisher.publish([message(full, number)])[0] for number in range(6)]
        assert outcomes == [None, None, None, "nacked", "nacked", "nacked"]
    finally:
        with channel_of(rabbitmq) as channel:
            channel.queue_delete(full)


def test_a_missing_exchange_is_an_error_and_the_next_call_works(publisher, queue):
    with pytest.raises(PublisherUnavailableError, match="no exchange"):
        publisher.publish([Outgoing("no-such-exchange", "", b"", {})])

    assert publisher.publish([message(queue, 1)]) == [None]


def test_declare_takes_a_queue_as_it_is(rabbitmq, publisher):
    name = f"theirs-{uuid.uuid4().hex[:8]}"
    with channel_of(rabbitmq) as channel:
        channel.queue_declare(
            queue=name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
        try:
            publisher.declare_queue(name)
            assert publisher.publish([message(name, 1)]) == [None]
        finally:
            channel.queue_delete(name)


def test_a_missing_exchange_is_named(publisher):
    with pytest.raises(UnrecoverableError, match="'no-such-exchange' does not exist"):
        publisher.check_exchange("no-such-exchange")


def test_a_memory_alarm_makes_it_unavailable_until_it_is_over(rabbitmq, queue):
    publisher = Publisher(rabbitmq.url, confirm_timeout=2)
    assert publisher.publish([message(queue, 1)]) == [None]
    rabbitmq.memory_alarm(on=True)
    try:
        with pytest.raises(PublisherUnavailableError, match="alarm") as caught:
            publisher.publish([message(queue, 2), message(queue, 3)])
        assert caught.value.outcomes == ("unknown", "unknown")
    finally:
        rabbitmq.memory_alarm(on=False)
    assert publisher.publish([message(queue, 4)]) == [None]
    publisher.close()


def test_a_connection_closed_while_idle_is_replaced(rabbitmq, publisher, queue):
    assert publisher.publish([message(queue, 1)]) == [None]
    rabbitmq.close_all_connections()

    assert publisher.publish([message(queue, 2)]) == [None]


def test_a_frozen_broker_holds_nothing_up(rabbitmq, queue):
    publisher = Publisher(rabbitmq.url, confirm_timeout=1)
    assert publisher.publish([message(queue, 1)]) == [None]
    rabbitmq.pause()
    try:
        with pytest.raises(PublisherUnavailableError) as caught:
            publisher.publish([message(queue, 2)])
        assert caught.value.outcomes == ("unknown",)
        publisher.close()
    finally:
        rabbitmq.resume()


def test_abort_ends_a_publish_under_way(rabbitmq, queue):
    publisher = Publisher(rabbitmq.url, confirm_timeout=60)
    assert publisher.publish([message(queue, 1)]) == [None]
    rabbitmq.pause()
    try:
        threading.Timer(0.3, publisher.abort).start()
        began = time.monotonic()
        with pytest.raises(PublisherUnavailableError):
            publisher.publish([message(queue, 2)])
        assert time.monotonic() - began < 30
    finally:
        rabbitmq.resume()


def test_killed_in_the_middle_what_was_confirmed_is_there(rabbitmq, queue):
    publisher = Publisher(rabbitmq.url, confirm_timeout=10, window=200)
    confirmed, attempted, failures = set(), set(), []
    several = threading.Event()

    def publish():
        number = 0
        while not failures:
            batch = range(number, number + 1_000)
            number += 1_000
            attempted.update(map(str, batch))
            try:
                outcomes = publisher.publish([message(queue, n) for n in batch])
            except PublisherUnavailableError as exc:
                outcomes = exc.outcomes
                failures.append(exc)
            confirmed.update(str(n) for n, outcome in zip(batch, outcomes, strict=True) if outcome is None)
            if number >= 3_000:
                several.set()

    thread = threading.Thread(target=publish)
    thread.start()
    assert several.wait(60)
    rabbitmq.kill()
    thread.join(60)
    assert not thread.is_alive()
    rabbitmq.start()

    found = Counter(got.properties["message_id"] for got in taken(rabbitmq, queue))
    assert confirmed
    assert confirmed <= found.keys() <= attempted
    assert publisher.publish([message(queue, -1)]) == [None]
    publisher.close()
