"""The example of docs/time.md on RabbitMQ: what is refused comes again, what is too old never does."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest

from consumers.publisher import Outgoing
from producers.tasks import publish as publish_tasks
from tests.servers.base import wait_for
from tests.service import channel_of, publish, taken

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/time.toml"
#: The user's sink: it takes what has come often enough, and says when it has seen what.
SINK = """
import json, time

def write(request):
    with open("seen", "a") as notes:
        for item in request:
            said = item.json()
            steps = item.deliveries[0].header("x-aggregator-retries") or 0
            good = steps >= said["steps"]
            notes.write(json.dumps([item.id, steps, time.time(), good]) + "\\n")
            if not good:
                request.refuse(item, said.get("why", "account-locked"))
"""


def seen(folder):
    """Return what the sink was given: id, steps, when, whether it was written."""
    path = folder / "seen"
    lines = path.read_text().splitlines() if path.exists() else []
    return [orjson.loads(line) for line in lines]


def written(folder):
    return [name for name, _, _, good in seen(folder) if good]


def order(queue, name, steps, headers=None, **more):
    properties = {
        "message_id": name, "content_type": "application/json", "delivery_mode": 2, "headers": headers or {},
    }  # fmt: skip
    return Outgoing("", queue, orjson.dumps({"steps": steps, **more}), properties)


@pytest.fixture
def place(rabbitmq4, tmp_path):
    """Where the service runs, with short steps in the place of the example's; its queues go with it."""
    (tmp_path / "users_sink.py").write_text(SINK)
    (tmp_path / "data").mkdir()
    text = EXAMPLE.read_text()
    assert '["1m", "10m", "1h"]' in text
    (tmp_path / "time.toml").write_text(text.replace('["1m", "10m", "1h"]', '["300ms", "1s"]'))
    yield tmp_path
    rabbitmq4.delete_queues("orders", "orders.dead", "orders.retry.300ms", "orders.retry.1s")


def start(service, rabbitmq, folder, *flags):
    return service(
        "--config", str(folder / "time.toml"), "--broker", rabbitmq.url,
        "--sink", "function:users_sink:write", "--workers", "1", "--age", "100ms", *flags,
        folder=folder, environment={"PYTHONPATH": f"{ROOT}:{folder}"},
    )  # fmt: skip


def test_the_example(rabbitmq4, place, service):
    running = start(service, rabbitmq4, place)
    running.wait_event("route_runs")
    now = time.time()
    publish(
        rabbitmq4.url,
        "orders",
        [
            order("orders", "once", 1, why="account-locked"),
            order("orders", "twice", 2, {"expires": now + 600}),
            order("orders", "never", 9),
            order("orders", "wrong", 9, why="mapping"),
            order("orders", "old", 0, {"expires": now - 1}),
            order("orders", "fleeting", 9, {"expires": now + 0.8}),
            order("orders", "odd", 0, {"expires": "soon"}),
        ],
    )
    dead = []

    def is_over():
        dead.extend(taken(rabbitmq4.url, "orders.dead"))
        return len(dead) == 3 and len(written(place)) == 2 and len(seen(place)) >= 9

    wait_for(is_over, "both written, three dead", timeout=60, detail=running.last_words)
    by_id = {message.properties["message_id"]: message.headers for message in dead}
    reasons = {name: headers["x-aggregator-reason"] for name, headers in by_id.items()}
    assert reasons == {"never": "account-locked", "wrong": "mapping", "odd": "bad-expires"}
    assert by_id["never"]["x-aggregator-retries"] == 2
    assert by_id["never"]["x-aggregator-attempts"] == 3
    assert "x-aggregator-retries" not in by_id["wrong"]
    assert written(place) == ["once", "twice"]
    moments = {
        name: [at for each, _, at, _ in seen(place) if each == name]
        for name in ("twice", "never", "fleeting")
    }
    for name in ("twice", "never"):
        first, second, third = moments[name]
        assert second - first >= 0.3
        assert third - second >= 1
    assert len(moments["fleeting"]) < 3  # its time was over before the last step was
    wait_for(lambda: not rabbitmq4.counts("orders").ready, "an empty queue", timeout=30)
    assert running.stop() == 0
    assert not running.faults()


def test_a_service_that_is_killed_repeats_and_loses_nothing(rabbitmq4, place, service):
    names = [f"m{number}" for number in range(300)]
    publish(rabbitmq4.url, "orders", [order("orders", name, 2) for name in names])
    running = start(service, rabbitmq4, place)
    for event in ("retries_published", "batch"):
        running.wait_event(event)
        running.kill()
        running = start(service, rabbitmq4, place)
    wait_for(lambda: set(written(place)) == set(names), "all", timeout=60, detail=running.last_words)
    assert running.stop() == 0
    assert taken(rabbitmq4.url, "orders.dead") == []


def test_a_retry_queue_that_is_declared_otherwise(rabbitmq4, place, service):
    with channel_of(rabbitmq4.url) as channel:
        channel.queue_declare("orders.retry.1s", durable=True, auto_delete=False)
    running = start(service, rabbitmq4, place)
    assert running.wait() == 1
    assert "orders.retry.1s" in running.last_words()


def test_a_message_for_later_comes_no_earlier(rabbitmq4, place):
    started = {}
    queues = {3: f"{place.name}.three", 2: f"{place.name}.two", 0: f"{place.name}.now"}
    try:
        for seconds, queue in queues.items():
            started[queue] = time.monotonic()
            publish_tasks(rabbitmq4.url, queue, [b"late"], delay=seconds)
        arrived = {}

        def all_there():
            for queue in queues.values():
                if queue not in arrived and rabbitmq4.counts(queue).ready:
                    arrived[queue] = time.monotonic() - started[queue]
            return len(arrived) == len(queues)

        wait_for(all_there, "all messages", timeout=30, detail=lambda: str(arrived))
        assert all(arrived[queue] >= seconds for seconds, queue in queues.items()), arrived
        (message,) = taken(rabbitmq4.url, queues[3])
        assert (message.body, message.delivery_info["exchange"]) == (b"late", "aggregator.delay.to")
    finally:
        rabbitmq4.delete_queues(*queues.values(), "aggregator.delay.0", "aggregator.delay.1")
