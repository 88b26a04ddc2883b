"""Each server does what the other tests take for granted."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import kombu
import pytest

from tests.servers import QueueCounts
from tests.servers.base import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import Elasticsearch, Prometheus, RabbitMQ, Redis, Tarantool

pytestmark = pytest.mark.integration


def publish(url: str, queue: str, body: str) -> None:
    """Return when the broker has confirmed it: only then does it survive a kill."""
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        simple = connection.SimpleQueue(queue)
        simple.put(body)
        simple.close()


def take(url: str, queue: str) -> object:
    with kombu.Connection(url) as connection:
        simple = connection.SimpleQueue(queue)
        message = simple.get(timeout=30)
        message.ack()
        simple.close()
        return message.payload


def test_rabbitmq_has_the_version_it_says(rabbitmq: RabbitMQ) -> None:
    assert rabbitmq.ctl("version").startswith(rabbitmq.version)


def test_rabbitmq_hands_on_a_message_and_counts_it(rabbitmq: RabbitMQ, queue: str) -> None:
    publish(rabbitmq.url, queue, "one")
    assert rabbitmq.counts(queue) == QueueCounts(ready=1, unacked=0, consumers=0)
    assert take(rabbitmq.url, queue) == "one"
    assert rabbitmq.counts(queue) == QueueCounts(ready=0, unacked=0, consumers=0)


@pytest.mark.parametrize("how", ["restart", "kill", "pause"])
def test_rabbitmq_keeps_a_message_whatever_happens_to_it(rabbitmq: RabbitMQ, queue: str, how: str) -> None:
    publish(rabbitmq.url, queue, how)
    getattr(rabbitmq, how)()
    rabbitmq.heal()
    assert take(rabbitmq.url, queue) == how


def test_a_paused_rabbitmq_answers_nothing(rabbitmq: RabbitMQ) -> None:
    rabbitmq.pause()
    with pytest.raises(OSError, match="timed out"):
        rabbitmq.ready()


def test_a_delivery_past_the_consumer_timeout_is_taken_back(rabbitmq: RabbitMQ, queue: str) -> None:
    publish(rabbitmq.url, queue, "late")
    rabbitmq.set_env("consumer_timeout", "500")
    try:
        with kombu.Connection(rabbitmq.url) as connection:
            connection.SimpleQueue(queue).get(timeout=30)
            wait_for(lambda: rabbitmq.counts(queue).ready == 1, "the message to be ready again")
            connection.collect()
    finally:
        rabbitmq.set_env("consumer_timeout", "1800000")


def test_a_broker_of_its_own_has_its_settings(own_rabbitmq: Callable[..., RabbitMQ]) -> None:
    broker = own_rabbitmq("4.0", channel_max="7")
    with kombu.Connection(broker.url) as connection:
        assert connection.connection.channel_max == 7


def test_elasticsearch_keeps_a_document_over_kill_and_restart(
    elasticsearch: Elasticsearch, index: str
) -> None:
    elasticsearch.call("PUT", f"/{index}/_create/a", {"n": 1})
    elasticsearch.kill()
    elasticsearch.heal()
    assert elasticsearch.documents(index) == {"a": {"n": 1}}
    elasticsearch.restart()
    assert elasticsearch.count(index) == 1


def test_a_node_of_its_own_has_its_settings(own_elasticsearch: Callable[..., Elasticsearch]) -> None:
    node = own_elasticsearch({"http.max_content_length": "1mb"})
    settings = node.call("GET", "/_nodes/settings?flat_settings=true")["nodes"].popitem()[1]["settings"]
    assert settings["http.max_content_length"] == "1mb"


def test_redis_answers(redis: Redis) -> None:
    assert redis.ready()


@pytest.fixture
def metrics() -> Iterator[str]:
    """A target with one metric; gives ``host:port``."""

    class Target(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(b"answers_total 42\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Target) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_prometheus_scrapes_its_target(prometheus: Callable[..., Prometheus], metrics: str) -> None:
    (sample,) = prometheus(metrics).wait_for("answers_total")
    assert sample["value"][1] == "42"


@pytest.mark.parametrize("how", ["restart", "kill", "pause"])
def test_tarantool_keeps_a_task_whatever_happens_to_it(tarantool: Tarantool, how: str) -> None:
    (put,) = tarantool.eval("tubes.create('kept') return tubes.put('kept', ...)", how)
    getattr(tarantool, how)()
    tarantool.heal()
    (rows,) = tarantool.eval("return tubes.take({'kept'}, 0, 1)")
    assert rows == [["kept", put, 0, how]]
    tarantool.eval("tubes.delete('kept', ...)", put)
