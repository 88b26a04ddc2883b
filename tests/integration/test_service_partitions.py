"""A keyed route of several instances: each key has one home, which moves when its instance dies."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack

import orjson
import pytest

from aggregator.partitioning import partition_name
from consumers.publisher import Outgoing, Publisher
from producers.replay import cli as replay
from tests.servers.base import wait_for
from tests.service import channel_of

pytestmark = pytest.mark.integration

PARTITIONS, KEYS, MEMBERS = 6, 60, 5


@pytest.fixture
def exchange(rabbitmq, queue):
    """The name of an exchange that the service makes; all that it makes is removed."""
    yield queue
    with channel_of(rabbitmq.url) as channel:
        channel.exchange_delete(queue)
    names = [partition_name(queue, number) for number in range(PARTITIONS)]
    rabbitmq.delete_queues(*names, f"{queue}.dead")


def flags(rabbitmq, exchange, folder, *more):
    return (
        "--broker", rabbitmq.url, "--queue", exchange, "--partitions", str(PARTITIONS),
        "--correlate", "header:user", "--aggregate", "list", "--size", str(MEMBERS), "--age", "10m",
        "--deadline-share", "off", "--sink", f"jsonl:///{folder}", "--metrics-port", "0", *more,
    )  # fmt: skip


def members(exchange, numbers):
    return [
        Outgoing(
            exchange, "", orjson.dumps({"user": key, "n": number}),
            {"headers": {"user": f"user-{key}"}, "message_id": f"{key}-{number}", "delivery_mode": 2},
        )
        for number in numbers
        for key in range(KEYS)
    ]  # fmt: skip


def publish(rabbitmq, messages):
    publisher = Publisher(rabbitmq.url)
    assert publisher.publish(messages) == [None] * len(messages)
    publisher.close()


def written(folders):
    """Return each document's members, as (user, n) sorted."""
    lines = [
        line
        for folder in folders
        for file in folder.rglob("*.jsonl*")
        for line in file.read_text().splitlines()
    ]
    return [
        sorted((each["user"], each["n"]) for each in json.loads(line)["_source"]["messages"])
        for line in lines
    ]


def test_no_group_is_split_when_one_of_three_instances_dies(rabbitmq, exchange, service, tmp_path):
    folders = [tmp_path / str(number) for number in range(3)]
    with ExitStack() as stack:
        instances = [service(*flags(rabbitmq, exchange, folder)) for folder in folders]
        for instance in instances:
            instance.wait_metric("aggregator_workers", lambda count: count == PARTITIONS, state="consuming")
            stack.callback(instance.kill)

        def held():
            return [int(instance.metric("aggregator_held_messages")) for instance in instances]

        publish(rabbitmq, members(exchange, range(3)))
        wait_for(lambda: sum(held()) == 3 * KEYS, "all members in open groups", detail=lambda: str(held()))
        victim = instances.pop(max(range(3), key=held().__getitem__))
        victim.kill()
        wait_for(lambda: sum(held()) == 3 * KEYS, "all of them in other hands", detail=lambda: str(held()))
        publish(rabbitmq, members(exchange, range(3, MEMBERS)))
        wait_for(lambda: len(written(folders)) >= KEYS, "a document for each key")
        assert Counter(key for (key, _), *_ in written(folders)) == Counter(range(KEYS))
        assert sorted(written(folders)) == [[(key, n) for n in range(MEMBERS)] for key in range(KEYS)]
        for instance in instances:
            assert instance.stop() == 0


def test_the_broker_spreads_the_keys(rabbitmq, exchange, service, tmp_path):
    running = service(*flags(rabbitmq, exchange, tmp_path))
    running.wait_metric("aggregator_workers", lambda count: count == PARTITIONS, state="consuming")
    assert running.stop() == 0
    publish(rabbitmq, members(exchange, range(2)))
    wait_for(lambda: sum(ready(rabbitmq, exchange)) == 2 * KEYS, "all of them in the partitions")
    # both messages of a key in one
    assert all(count and count % 2 == 0 for count in ready(rabbitmq, exchange))


def ready(rabbitmq, exchange):
    """Return how many messages wait in each partition; RabbitMQ's counts are some seconds old."""
    with channel_of(rabbitmq.url) as channel:
        names = [partition_name(exchange, number) for number in range(PARTITIONS)]
        return [channel.queue_declare(name, passive=True).message_count for name in names]


def test_a_dead_letter_knows_its_partition_and_comes_back_to_it(rabbitmq, exchange, service, tmp_path):
    running = service(*flags(rabbitmq, exchange, tmp_path))
    running.wait_metric("aggregator_workers", lambda count: count == PARTITIONS, state="consuming")
    bad = Outgoing(exchange, "", b"{", {"headers": {"user": "1"}, "content_type": "application/json"})
    publish(rabbitmq, [bad] * MEMBERS)
    running.wait_event("dead_letters_published")
    dead = f"{exchange}.dead"
    assert running.stop() == 0
    (home,) = {letter.headers["x-aggregator-queue"] for letter in taken_and_put_back(rabbitmq, dead)}
    assert replay.main(["send", "--broker", rabbitmq.url, "--queue", exchange]) == 0
    expected = [MEMBERS * (partition_name(exchange, number) == home) for number in range(PARTITIONS)]
    wait_for(lambda: ready(rabbitmq, exchange) == expected, f"all of them in {home}")


def taken_and_put_back(rabbitmq, queue):
    with channel_of(rabbitmq.url) as channel:
        return [channel.basic_get(queue) for _ in range(MEMBERS)]
