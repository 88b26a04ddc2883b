"""An application on RabbitMQ: its queues are declared as they are written, or it says what differs."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import contextmanager

import pytest
from kombu.entity import Exchange, Queue, binding

from aggregator import Aggregator, age, size
from tests.service import channel_of

pytestmark = pytest.mark.integration

PATIENCE = 60


@pytest.fixture
def shop(rabbitmq, queue):
    """A topic exchange of its own; it is deleted after the test."""
    exchange = Exchange(f"{queue}.shop", type="topic")
    yield exchange
    with channel_of(rabbitmq.url) as channel:
        channel.exchange_delete(exchange.name)


class Written:
    """A batch function that can be waited for."""

    def __init__(self):
        self.numbers = Counter()
        self.batches = []
        self._changed = threading.Condition()

    def __call__(self, batch):
        with self._changed:
            self.batches.append(len(batch))
            self.numbers.update(json.loads(item.document)["n"] for item in batch)
            self._changed.notify_all()

    def wait(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: self.numbers.total() >= count, PATIENCE), self.numbers


@contextmanager
def running(app):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(app.run()))
    thread.start()
    try:
        yield
    finally:
        app.stop()
        thread.join(PATIENCE)
        assert codes == [0]


def publish(rabbitmq, exchange, routing_key, numbers):
    with channel_of(rabbitmq.url) as channel:
        for number in numbers:
            message = channel.prepare_message(
                json.dumps({"n": number}).encode(), content_type="application/json"
            )
            channel.basic_publish(message, exchange, routing_key)


def made(rabbitmq, entity, **more):
    app = Aggregator(rabbitmq.url, environment=False, log_format="json", workers=2, **more)
    written = Written()
    app.route(entity, name="r", complete=size(4) | age("300ms"), sink=written)
    return app, written


def test_a_queue_is_declared_with_its_exchange_and_bindings(rabbitmq, queue, shop):
    entity = Queue(
        queue,
        bindings=[binding(shop, routing_key="order.#"), binding(shop, routing_key="refund")],
        queue_arguments={"x-queue-type": "quorum"},
    )
    app, written = made(rabbitmq, entity)
    assert app.run(until_empty=True) == 0
    publish(rabbitmq, shop.name, "order.new.eu", range(6))
    publish(rabbitmq, shop.name, "refund", [6, 7])
    publish(rabbitmq, shop.name, "elsewhere", [8])
    assert app.run(until_empty=True) == 0
    assert written.numbers == Counter(range(8))
    assert written.batches == [4, 4]


def test_a_queue_with_priorities(rabbitmq, queue, shop):
    entity = Queue(queue, shop, routing_key="#", max_priority=5, consumer_arguments={"x-priority": 3})
    app, written = made(rabbitmq, entity)
    with running(app):
        wait_for_consumers(rabbitmq, queue)
        listed = rabbitmq.ctl("list_consumers", "queue_name", "arguments").splitlines()
        assert sum(queue in line and "x-priority" in line for line in listed) == 2
        publish(rabbitmq, shop.name, "x", range(8))
        written.wait(8)
    assert written.numbers == Counter(range(8))


def wait_for_consumers(rabbitmq, queue):
    """Wait until both workers consume."""
    pause = threading.Event()
    for _ in range(PATIENCE * 10):
        with channel_of(rabbitmq.url) as channel:
            try:
                if channel.queue_declare(queue, passive=True).consumer_count == 2:
                    return
            except channel.connection.client.channel_errors:
                pass
        pause.wait(0.1)
    pytest.fail("nobody consumes")


def test_a_deleted_queue_is_declared_and_bound_again(rabbitmq, queue, shop):
    app, written = made(rabbitmq, Queue(queue, shop, routing_key="order.#"))
    with running(app):
        wait_for_consumers(rabbitmq, queue)
        rabbitmq.delete_queues(queue)
        wait_for_consumers(rabbitmq, queue)
        publish(rabbitmq, shop.name, "order.new", range(4))
        written.wait(4)


@pytest.mark.parametrize(
    ("entity", "words"),
    [
        (
            lambda queue, shop: Queue(queue, max_priority=5),
            ["inequivalent arg 'x-max-priority'", "'{queue}'"],
        ),
        (lambda queue, shop: Queue(queue, durable=False), ["inequivalent arg 'durable' for queue '{queue}'"]),
        (
            lambda queue, shop: Queue(queue, Exchange(shop.name, type="fanout")),
            ["inequivalent arg 'type' for exchange '{queue}.shop'"],
        ),
        (
            lambda queue, shop: Queue(queue, Exchange(f"{queue}.x", type="no-such")),
            ["exchange type", "no-such"],
        ),
        (
            lambda queue, shop: Queue(queue, queue_arguments={"x-message-ttl": "soon"}),
            ["x-message-ttl", "'{queue}'"],
        ),
    ],
    ids=["argument", "durable", "exchange", "type of exchange", "no such argument"],
)
def test_what_stands_there_declared_otherwise_ends_the_run_and_is_named(  # noqa: PLR0917
    rabbitmq, queue, shop, entity, words, capsys
):
    with channel_of(rabbitmq.url) as channel:
        Queue(queue, shop, routing_key="#").bind(channel).declare()
    publish(rabbitmq, shop.name, "x", [1])
    app, written = made(rabbitmq, entity(queue, shop))
    assert app.run() == 1
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (reason,) = {line["reason"] for line in told if line["event"] == "route_stopped"}
    assert reason.startswith(f"queue '{queue}' cannot be declared as it is written: ")
    assert all(word.format(queue=queue) in reason for word in words), reason
    assert not written.numbers
    # by its name alone it is taken as it is
    app, written = made(rabbitmq, queue)
    assert app.run(until_empty=True) == 0
    assert written.numbers == Counter([1])
