"""Dead letters against real brokers: nothing is reported that is not in a queue."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager

import pytest
from kombu import Connection

from aggregator.errors import PublisherUnavailableError, UnrecoverableError
from aggregator.testing.memory import MemoryDelivery
from consumers.dead_letters import DeadLetters, Refused, original

pytestmark = pytest.mark.integration


class Reported:
    """What ``on_published`` was called with; can be waited for."""

    def __init__(self):
        self.bodies = Counter()
        self.threads = set()
        self._changed = threading.Condition()

    def __call__(self, refused):
        with self._changed:
            self.bodies.update(one.delivery.body for one in refused)
            self.threads.add(threading.current_thread())
            self._changed.notify_all()

    def wait_for(self, count, timeout=60):
        with self._changed:
            return self._changed.wait_for(lambda: self.bodies.total() >= count, timeout)


@contextmanager
def dead_letters(server, queue, **settings):
    reported = Reported()
    letters = DeadLetters(server.url, queue, on_published=reported, **{"confirm_timeout": 5, **settings})
    letters.reported = reported
    letters.start()
    try:
        yield letters
    finally:
        letters.stop(0)


@contextmanager
def channel_of(server):
    with Connection(server.url) as connection, connection.channel() as channel:
        yield channel


def taken(server, queue):
    with channel_of(server) as channel:
        found = []
        while message := channel.basic_get(queue, no_ack=True):
            found.append(message)
        return found


def refused(number, **delivery):
    return Refused(MemoryDelivery(b"%d" % number, **delivery), "bad-json")


def test_the_original_can_be_made_again(rabbitmq, queue):
    headers = {
        "n": 1,
        "list": [1, "two"],
        "x-aggregator-status": 1,
        "CC": ["elsewhere"],
        "x-delivery-count": 15,
    }
    properties = {
        "message_id": "m",
        "content_type": "application/json",
        "correlation_id": "c",
        "delivery_mode": 1,
        "expiration": "1",
        "priority": 4,
        "timestamp": 1_700_000_000,
        "user_id": "somebody-else",
    }
    delivery = MemoryDelivery(
        b'{"a": ', headers=headers, properties=properties, exchange="amq.topic", routing_key="a.b"
    )
    with dead_letters(rabbitmq, queue) as letters:
        letters.submit(
            [
                Refused(
                    delivery, "bad-json", "unexpected end", 400, "parsing", 1_700_000_000.25, 1_700_000_001, 3
                )
            ]
        )
        assert letters.drain(30)

    (got,) = taken(rabbitmq, f"{queue}.dead")
    assert got.body == b'{"a": '
    assert {name: value for name, value in got.headers.items() if name.startswith("x-aggregator-")} == {
        "x-aggregator-reason": "bad-json",
        "x-aggregator-detail": "unexpected end",
        "x-aggregator-error-type": "parsing",
        "x-aggregator-status": 400,
        "x-aggregator-attempts": 3,
        "x-aggregator-first": "2023-11-14T22:13:20.250Z",
        "x-aggregator-last": "2023-11-14T22:13:21.000Z",
        "x-aggregator-exchange": "amq.topic",
        "x-aggregator-routing-key": "a.b",
        "x-aggregator-queue": queue,
        "x-aggregator-expiration": "1",
        "x-aggregator-user-id": "somebody-else",
        "x-aggregator-delivery-mode": 1,
        "x-aggregator-cc": ["elsewhere"],
        "x-aggregator-delivery-count": 15,
    }
    assert got.properties["delivery_mode"] == 2
    assert "expiration" not in got.properties
    back = original({**got.properties, "headers": got.headers})
    assert (back.queue, back.exchange, back.routing_key) == (queue, "amq.topic", "a.b")
    del properties["user_id"]
    assert back.properties == {**properties, "headers": {"n": 1, "list": [1, "two"]}}


def test_ten_thousand_at_once(rabbitmq, queue):
    numbers = range(10_000)
    with dead_letters(rabbitmq, queue) as letters:
        letters.submit([refused(number) for number in numbers])
        assert letters.drain(100)
        assert letters.pending == 0

    once = Counter(b"%d" % number for number in numbers)
    assert letters.reported.bodies == once
    assert threading.current_thread() not in letters.reported.threads
    assert Counter(got.body for got in taken(rabbitmq, f"{queue}.dead")) == once


def test_a_deleted_queue_comes_back_and_only_then_is_reported(rabbitmq, queue):
    with dead_letters(rabbitmq, queue) as letters:
        letters.submit([refused(1)])
        assert letters.drain(30)
        with channel_of(rabbitmq) as channel:
            channel.queue_delete(f"{queue}.dead")
        letters.submit([refused(2)])
        assert letters.drain(30)

    assert letters.reported.bodies == {b"1": 1, b"2": 1}
    assert [got.body for got in taken(rabbitmq, f"{queue}.dead")] == [b"2"]


def test_an_exchange_that_leads_nowhere_reports_nothing_until_it_does(rabbitmq, queue):
    exchange = f"{queue}.exchange"
    with channel_of(rabbitmq) as channel:
        channel.exchange_declare(exchange, "direct", durable=True, auto_delete=False)
        try:
            with dead_letters(rabbitmq, queue, exchange=exchange, routing_key="dead") as letters:
                letters.submit([refused(number) for number in range(3)])
                assert not letters.drain(1)
                assert letters.pending == 3
                assert not letters.reported.bodies

                channel.queue_declare(queue=f"{queue}.dead", durable=True, auto_delete=False)
                channel.queue_bind(f"{queue}.dead", exchange, "dead")
                assert letters.drain(60)
            assert len(taken(rabbitmq, f"{queue}.dead")) == 3
        finally:
            channel.exchange_delete(exchange)


def test_a_full_queue_that_rejects_reports_only_what_it_took(rabbitmq, queue):
    with channel_of(rabbitmq) as channel:
        channel.queue_declare(
            queue=f"{queue}.dead",
            durable=True,
            auto_delete=False,
            arguments={"x-max-length": 2, "x-overflow": "reject-publish"},
        )
    with dead_letters(rabbitmq, queue) as letters:
        for number in range(4):  # one by one: the limit counts what is stored, not what comes at once
            letters.submit([refused(number)])
            letters.drain(1)
        assert letters.reported.bodies == {b"0": 1, b"1": 1}
        assert letters.pending == 2
        assert len(taken(rabbitmq, f"{queue}.dead")) == 2
        assert letters.drain(60)

    assert letters.reported.bodies == {b"%d" % number: 1 for number in range(4)}


def test_a_memory_alarm_holds_them_back(rabbitmq, queue):
    with dead_letters(rabbitmq, queue, confirm_timeout=1) as letters:
        rabbitmq.memory_alarm(on=True)
        try:
            letters.submit([refused(1)])
            assert not letters.drain(3)
            assert not letters.reported.bodies
        finally:
            rabbitmq.memory_alarm(on=False)
        assert letters.drain(60)
    assert letters.reported.bodies == {b"1": 1}


def test_a_killed_broker_loses_none(rabbitmq, queue):
    numbers = range(5_000)
    with dead_letters(rabbitmq, queue) as letters:
        letters.submit([refused(number) for number in numbers])
        assert letters.reported.wait_for(500)
        rabbitmq.kill()
        rabbitmq.start()
        assert letters.drain(100)

    wanted = {b"%d" % number for number in numbers}
    assert letters.reported.bodies == Counter(wanted)
    assert {got.body for got in taken(rabbitmq, f"{queue}.dead")} == wanted


@pytest.mark.parametrize("connected", [True, False])
def test_stop_is_prompt_while_the_broker_is_frozen_and_nothing_follows(rabbitmq, queue, connected):
    with dead_letters(rabbitmq, queue, confirm_timeout=60) as letters:
        if connected:
            letters.submit([refused(0)])
            assert letters.drain(30)
        before = dict(letters.reported.bodies)
        rabbitmq.pause()
        letters.submit([refused(1)])

        assert not letters.stop(0.5)
        rabbitmq.resume()

        letters._thread.join(30)
        assert not letters.alive
        assert letters.pending == 1
        assert letters.reported.bodies == before


def test_stop_sends_what_is_pending(rabbitmq, queue):
    with dead_letters(rabbitmq, queue) as letters:
        letters.submit([refused(number) for number in range(2_000)])
        assert letters.stop(60)
        assert not letters.alive
    assert len(taken(rabbitmq, f"{queue}.dead")) == 2_000


def test_headers_that_fit_no_frame_are_cut_not_kept_waiting(rabbitmq, queue):
    huge = {"small": "kept", "huge": "x" * 200_000}
    many = {"small": "kept", **{f"many-{number}": "y" * 3_000 for number in range(60)}}
    odd = {"object": object(), "": None, "n" * 300: 1, "big": 2**70}
    with dead_letters(rabbitmq, queue) as letters:
        letters.submit([refused(number, headers=h) for number, h in enumerate((huge, many, odd, {}))])
        assert letters.drain(30)

    by_body = {got.body: got.headers for got in taken(rabbitmq, f"{queue}.dead")}
    assert by_body.keys() == {b"0", b"1", b"2", b"3"}
    assert by_body[b"0"]["small"] == "kept"
    assert by_body[b"0"]["huge"] == "x" * 4_000
    assert by_body[b"1"]["small"] == "kept"
    cut = by_body[b"1"]["x-aggregator-cut"].split(", ")
    assert 0 < len(cut) < 30
    assert by_body[b"1"].keys().isdisjoint(cut)
    assert by_body[b"2"]["big"] == str(2**70)


def test_an_existing_queue_is_taken_as_it_is(rabbitmq, queue):
    with channel_of(rabbitmq) as channel:
        channel.queue_declare(
            queue=f"{queue}.dead", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    with dead_letters(rabbitmq, queue) as letters:
        letters.submit([refused(1)])
        assert letters.drain(30)


def test_a_named_exchange_must_exist(rabbitmq, queue):
    letters = DeadLetters(rabbitmq.url, queue, exchange="no-such-exchange", on_published=print)
    with pytest.raises(UnrecoverableError, match="no-such-exchange"):
        letters.start()


def test_no_broker_is_told_at_the_start(queue):
    letters = DeadLetters("amqp://guest:secret@127.0.0.1:1//", queue, on_published=print)
    with pytest.raises(PublisherUnavailableError) as caught:
        letters.start()
    assert "secret" not in str(caught.value)
