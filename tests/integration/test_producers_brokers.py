"""The producers against real brokers."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager

import orjson
import pytest
from kombu import Connection

from producers import load, tasks

pytestmark = pytest.mark.integration


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


def test_forty_persistent_texts_through_the_default_exchange(rabbitmq, queue, capsys):
    assert tasks.main(["--broker", rabbitmq.url, "--queue", queue]) == 0

    assert "guest:guest" not in capsys.readouterr().out
    with channel_of(rabbitmq) as channel:  # durable without arguments, or this is a 406
        channel.queue_declare(queue=queue, durable=True, auto_delete=False)
    found = taken(rabbitmq, queue)
    assert [message.body for message in found] == [b"Message %d of 40" % n for n in range(1, 41)]
    for message in found:
        assert message.properties == {"delivery_mode": 2}
        assert message.delivery_info["exchange"] == ""
        assert message.delivery_info["routing_key"] == queue


def test_identical_json(rabbitmq, queue):
    assert (
        tasks.main(["--broker", rabbitmq.url, "--queue", queue, "--identical", "--json", "--count", "3"]) == 0
    )
    found = taken(rabbitmq, queue)
    assert {message.body for message in found} == {orjson.dumps({"message": "A message"})}
    assert [message.properties["content_type"] for message in found] == ["application/json"] * 3


def test_a_queue_is_taken_as_it_is(rabbitmq, queue):
    with channel_of(rabbitmq) as channel:
        channel.queue_declare(
            queue=queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
        )
    assert tasks.main(["--broker", rabbitmq.url, "--queue", queue, "--count", "2"]) == 0
    assert len(taken(rabbitmq, queue)) == 2


def test_a_queue_that_refuses_is_one_line(rabbitmq, queue, capsys):
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with channel_of(rabbitmq) as channel:
        channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=arguments)
    assert tasks.main(["--broker", rabbitmq.url, "--queue", queue]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "NackError" in said


def test_wrong_credentials_are_one_line(rabbitmq, queue, capsys):
    broker = rabbitmq.url.replace("guest:guest", "guest:secret")
    for main in (tasks.main, load.main):
        assert main(["--broker", broker, "--queue", queue]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "ACCESS_REFUSED" in said
        assert "secret" not in said


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_the_load_is_all_there(rabbitmq, queue, kind, tmp_path):
    ids = tmp_path / "ids"
    arguments = ["--count", "4000", "--bad", "0.02", "--queue-type", kind, "--connections", "2"]

    assert load.main(["--broker", rabbitmq.url, "--queue", queue, *arguments, "--ids", str(ids)]) == 0

    found = taken(rabbitmq, queue)
    assert Counter(message.properties["message_id"] for message in found) == Counter(ids.read_text().split())
    assert len(found) == 4_000
    bad = Counter(message.headers["x-bad"] for message in found if "x-bad" in (message.headers or {}))
    assert len(bad) == 5


def test_a_patient_load_outlives_its_broker(rabbitmq, queue, tmp_path):
    ids = tmp_path / "ids"
    codes = []
    arguments = ["--count", "30000", "--rate", "10000", "--patience", "60", "--ids", str(ids)]
    thread = threading.Thread(
        target=lambda: codes.append(load.main(["--broker", rabbitmq.url, "--queue", queue, *arguments]))
    )
    thread.start()
    while not (ids.exists() and ids.stat().st_size):
        thread.join(0.05)
        assert thread.is_alive()
    rabbitmq.kill()
    rabbitmq.start()
    thread.join(100)

    assert codes == [0]
    confirmed = ids.read_text().split()
    assert len(confirmed) == len(set(confirmed)) == 30_000
    assert {message.properties["message_id"] for message in taken(rabbitmq, queue)} == set(confirmed)
