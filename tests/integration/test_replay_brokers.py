"""Dead letters looked at and sent back, over real brokers and with the real service."""

from __future__ import annotations

import orjson
import pytest
from kombu import Connection

from aggregator.ports import Refused
from aggregator.testing.message import MemoryDelivery
from consumers.dead_letter_message import dead_letter
from consumers.publisher import Outgoing, Publisher
from producers.replay.cli import main
from tests.service import taken

pytestmark = pytest.mark.integration


@pytest.fixture(params=["classic", "quorum"])
def letters(request, rabbitmq, queue, monkeypatch):
    """Five letters of two reasons in a dead-letter queue of either type; its name."""
    monkeypatch.setenv("AGGREGATOR_BROKER", rabbitmq.url)
    monkeypatch.setenv("AGGREGATOR_QUEUE", queue)
    dead = f"{queue}.dead"
    publisher = Publisher(rabbitmq.url)
    for name in (queue, dead):
        publisher.declare_queue(name, arguments={"x-queue-type": request.param})
    made = [
        dead_letter(
            Refused(
                MemoryDelivery(b"%d" % number, properties={"message_id": f"m{number}"}),
                "mapping" if number % 2 else "bad-json",
            ),
            queue=queue, exchange="", routing_key=dead, frame_max=131_072,
        )
        for number in range(5)
    ]  # fmt: skip
    assert publisher.publish(made) == [None] * 5
    publisher.close()
    return dead


def numbers(server, queue):
    return [int(message.body) for message in taken(server.url, queue)]


def test_some_are_sent_back_and_the_others_stay_in_their_order(rabbitmq, queue, letters, capsys):
    assert main(["send", "--reason", "mapping", "--limit", "1"]) == 0
    assert main(["send", "--reason", "mapping"]) == 0
    assert main(["list", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out.splitlines()[-1])["letters"] == 3
    assert numbers(rabbitmq, queue) == [1, 3]
    assert numbers(rabbitmq, letters) == [0, 2, 4]


def test_to_look_is_no_risk(rabbitmq, letters, capsys):
    """RabbitMQ 4 drops a message of a quorum queue after 20 deliveries; a look is one."""
    for _ in range(25):
        assert main(["list", "--json"]) == 0
    lines = [orjson.loads(line)["letters"] for line in capsys.readouterr().out.splitlines()]
    assert set(lines) == {2, 3}
    assert len(lines) == 50
    assert sorted(numbers(rabbitmq, letters)) == [0, 1, 2, 3, 4]


def test_what_the_broker_moved_itself(rabbitmq, queue, monkeypatch, capsys):
    monkeypatch.setenv("AGGREGATOR_BROKER", rabbitmq.url)
    dead = f"{queue}.dead"
    publisher = Publisher(rabbitmq.url)
    publisher.declare_queue(dead)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead, "x-message-ttl": 1}
    publisher.declare_queue(queue, arguments=arguments)
    publisher.publish([Outgoing("", queue, b"1", {"headers": {"n": 1}})])
    publisher.close()
    with Connection(rabbitmq.url) as connection, connection.channel() as channel:
        while not channel.queue_declare(dead, passive=True).message_count:
            pass
    assert main(["show", "--json", "--queue", queue]) == 0
    shown = orjson.loads(capsys.readouterr().out)
    assert (shown["reason"], shown["queue"], shown["headers"], shown["body"]) == (
        "expired",
        queue,
        {"n": 1},
        "1",
    )
    assert shown["last"]


def test_a_broker_that_is_away(capsys):
    assert main(["list", "--broker", "amqp://guest:secret@localhost:1//"]) == 1
    told = capsys.readouterr().err
    assert "amqp://guest:***@localhost:1//" in told
    assert "secret" not in told
