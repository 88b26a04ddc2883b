"""Another exchange as a sink, under the contract of sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from kombu import Connection

from aggregator.errors import ConfigurationError, SinkBlockedError, SinkUnavailableError
from aggregator.sinks import from_url
from aggregator.sinks.base import Fate
from aggregator.testing.memory import MemoryDelivery
from tests.contract.sink_contract import SinkContract, fates, items
from tests.service import channel_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.delivery import Item
    from aggregator.sinks.base import Sink
    from tests.servers import RabbitMQ


def seen(server: RabbitMQ, queue: str) -> list[Any]:
    """Return all messages of a queue, and leave them there."""
    with Connection(server.url) as connection, connection.channel() as channel:
        found = []
        while message := channel.basic_get(queue):
            found.append(message)
        return found


@pytest.mark.integration
class TestExchange(SinkContract):
    knows_ids = False

    @pytest.fixture
    def sink_factory(self, rabbitmq4: RabbitMQ, out: str) -> Callable[[], Sink]:
        return lambda: from_url(f"exchange+{rabbitmq4.url}?queue={out}")

    @pytest.fixture
    def out(self, rabbitmq4: RabbitMQ, request: pytest.FixtureRequest) -> Any:
        name = f"out-{abs(hash(request.node.nodeid))}"
        yield name
        rabbitmq4.delete_queues(name)

    @pytest.fixture
    def read_back(self, rabbitmq4: RabbitMQ, out: str) -> Callable[[], list[tuple[Any, Any]]]:
        return lambda: [
            (each.properties["message_id"], orjson.loads(each.body)) for each in seen(rabbitmq4, out)
        ]


def item(name: str, **more: Any) -> Item:
    made = MemoryDelivery(b"", **more)
    made.id = name
    made.document = b'{"region":"%b"}' % name.encode()
    return made


@pytest.mark.integration
def test_routed_by_the_message(rabbitmq4: RabbitMQ) -> None:
    queues = ["north-out", "south-out"]
    with channel_of(rabbitmq4.url) as channel:
        channel.exchange_declare("regions-out", "topic", durable=True, auto_delete=False)
        for queue in queues:
            channel.queue_declare(queue, durable=True, auto_delete=False)
            channel.queue_bind(queue, "regions-out", queue.partition("-")[0])
    try:
        options = "exchange=regions-out&routing_key=/region&correlation_id=header:key"
        sink = from_url(f"exchange+{rabbitmq4.url}?{options}")
        sink.open()
        wanted = [item("north", headers={"key": "k"}), item("nowhere"), item("south"), item("x" * 300)]
        assert fates(sink, wanted) == [Fate.WRITTEN, Fate.DEAD_LETTER, Fate.WRITTEN, Fate.DEAD_LETTER]
        sink.close()
        (north,), (south,) = (seen(rabbitmq4, queue) for queue in queues)
        assert north.properties == {
            "message_id": "north",
            "content_type": "application/json",
            "delivery_mode": 2,
            "correlation_id": "k",
        }
        assert (south.body, "correlation_id" in south.properties) == (b'{"region":"south"}', False)
    finally:
        with channel_of(rabbitmq4.url) as channel:
            channel.exchange_delete("regions-out")
        rabbitmq4.delete_queues(*queues)


@pytest.mark.integration
def test_an_exchange_that_is_not_bound_blocks(rabbitmq4: RabbitMQ) -> None:
    sink = from_url(f"exchange+{rabbitmq4.url}?exchange=amq.topic&routing_key=constant:nowhere")
    sink.open()
    assert fates(sink, items("a", "b")) == [Fate.BLOCKED] * 2
    sink.close()


@pytest.mark.integration
def test_a_queue_that_is_full_is_tried_again(rabbitmq4: RabbitMQ) -> None:
    with channel_of(rabbitmq4.url) as channel:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("full-out", durable=True, auto_delete=False, arguments=arguments)
    try:
        sink = from_url(f"exchange+{rabbitmq4.url}?queue=full-out")
        sink.open()
        told = fates(sink, items("a", "b", "c"))
        assert told[0] is Fate.WRITTEN
        assert set(told[1:]) <= {Fate.WRITTEN, Fate.RETRY}
        assert Fate.RETRY in fates(sink, items("d", "e", "f"))
        sink.close()
    finally:
        rabbitmq4.delete_queues("full-out")


@pytest.mark.integration
def test_an_exchange_that_is_not_there(rabbitmq4: RabbitMQ) -> None:
    sink = from_url(f"exchange+{rabbitmq4.url}?exchange=nobody")
    with pytest.raises(SinkBlockedError, match="'nobody' does not exist"):
        sink.open()


def test_a_broker_that_is_away() -> None:
    sink = from_url("exchange+amqp://user:hunter2@127.0.0.1:1//?queue=out")
    with pytest.raises(SinkUnavailableError) as told:
        sink.open()
    assert "hunter2" not in f"{told.value} {sink.where()}"
    with pytest.raises(SinkUnavailableError, match="not open"):
        sink.write(items("a"))


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("", "either an exchange or a queue"),
        ("?exchange=a&queue=b", "either an exchange or a queue"),
        ("?queue=b&routing_key=constant:x", "a queue's name is its routing key"),
        ("?exchange=a&routing_key=nonsense", "routing_key: 'nonsense' is no expression"),
        ("?queue=b&ca=/etc/hosts", "ca: only amqps"),
        ("?queue=b&color=red", "color: unknown option"),
        ("?queue=" + "x" * 256, "queue"),
    ],
)
def test_wrong_urls(query: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as refused:
        from_url(f"exchange+amqp://localhost//{query}")
    assert refused.value.field == "sink"
