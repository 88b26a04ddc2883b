"""Commands over each kind of broker: who hears them, who is answered, what is not understood."""

from __future__ import annotations

import uuid
from contextlib import ExitStack

import orjson
import pytest
from kombu import Exchange, Queue
from kombu.compression import compress
from structlog.testing import capture_logs

from aggregator.backoff import Backoff
from consumers import attendant, control
from consumers.commanding import destination_of, send
from consumers.connecting import Broker
from consumers.control import ControlNode
from tests.servers.base import wait_for


class Told:
    """What a node is told, and what it tells others."""

    def __init__(self, knows=()):
        self.heard = []
        self.greeted = []
        self.knows = list(knows)
        self.adopted = []

    def answer(self, command, arguments):
        if command == "hello":
            self.greeted.append(arguments)
            return {"ok": self.knows}
        self.heard.append((command, arguments))
        return {"ok": [{"n": len(self.heard)}]}

    def adopt(self, rows):
        self.adopted += rows
        return len(rows)


class Stage:
    """A namespace of its own, with nodes in it that end with the test."""

    def __init__(self, url, stack):
        self.broker = Broker(url, batched=False)
        self.namespace = f"test-{uuid.uuid4().hex[:8]}"
        self.stack = stack
        self.nodes = {}

    def node(self, name, knows=()):
        told = Told(knows)
        node = ControlNode(self.broker, self.namespace, told, name=name)
        node._backoff = Backoff(0.05, 0.2)
        self.stack.enter_context(node)
        wait_for(lambda: not node.problem, f"{name} listens", timeout=30)
        self.nodes[name] = node
        return told

    def send(self, command, arguments=None, to=None):
        meant = destination_of(to)
        return send(
            self.broker, self.namespace, command, arguments or {}, destination=meant, timeout=self.patience
        )

    def publish(self, body, **properties):
        """Publish anything to where commands come from."""
        with self.broker.connection() as connection, connection.Producer() as producer:
            options = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
            exchange = Exchange(f"{self.namespace}.pidbox", "fanout", durable=False, delivery_mode=1)
            producer.publish(
                body, exchange=exchange, routing_key="", serializer=None, declare=[exchange], **options
            )


class Contract:
    """What holds over every broker that has fanout exchanges. ``patience``: seconds without an answer."""

    patience = 0.3

    @pytest.fixture
    def stage(self, url, monkeypatch):
        monkeypatch.setattr(attendant, "TICK_SECONDS", 0.05)
        monkeypatch.setattr(control, "HELLO_SECONDS", self.patience / 3)
        with ExitStack() as stack, capture_logs() as logs:
            made = Stage(url, stack)
            made.logs, made.patience = logs, self.patience
            yield made

    def test_all_hear_it_and_answer(self, stage):
        told = [stage.node(f"{number}@host") for number in (1, 2)]
        answers = stage.send("stats", {"route": "r"})
        assert answers == {f"{number}@host": {"ok": [{"n": 1}]} for number in (1, 2)}
        assert [each.heard for each in told] == [[("stats", {"route": "r"})]] * 2

    def test_nobody_answers_where_nobody_is(self, stage):
        assert stage.send("ping") == {}

    @pytest.mark.parametrize(
        ("to", "who"),
        [
            ("1@a", {"1@a"}),
            ("1@a,1@b", {"1@a", "1@b"}),
            ("a", {"1@a", "2@a"}),
            ("1@?", {"1@a", "1@b"}),
        ],
    )
    def test_those_hear_it_that_are_meant(self, stage, to, who):
        told = {name: stage.node(name) for name in ("1@a", "2@a", "1@b")}
        assert set(stage.send("ping", to=to)) == who
        assert {name for name, each in told.items() if each.heard} == who

    def test_namespaces_do_not_hear_each_other(self, stage):
        told = stage.node("1@a")
        stage.namespace = f"{stage.namespace}.x"
        assert stage.send("ping") == {}
        assert told.heard == []

    def test_what_is_no_command_is_not_read(self, stage):
        told = stage.node("1@a")
        command = orjson.dumps({"method": "flush", "arguments": {}})
        for body, properties in (
            (b"{", {}),
            (b"[1]", {}),
            (b'{"method": 5}', {}),
            (b'{"method": "flush", "arguments": [1]}', {}),
            (b"\xff\xfe", {}),
            (command, {"content_type": "application/x-python-serialize"}),
            (command, {"content_type": "text/plain"}),
            (compress(command, "zlib")[0], {"headers": {"compression": "application/x-gzip"}}),
            (b'"' + b"x" * 1_100_000 + b'"', {}),
        ):
            stage.publish(body, **properties)
        assert set(stage.send("ping")) == {"1@a"}
        assert told.heard == [("ping", {})]
        assert len([line for line in stage.logs if line["event"] == "command_not_read"]) == 9

    def test_nobody_else_is_answered(self, stage):
        """An answer is a message of ours: who may send commands could have any queue be written to."""
        told = stage.node("1@a")
        victim = Queue(f"victim-{stage.namespace}", durable=False, auto_delete=False)
        with stage.broker.connection() as connection:
            queue = victim(connection.channel())
            queue.declare()
            try:
                for exchange in ("", "amq.direct", f"{stage.namespace}.pidbox", None, 5):
                    reply_to = {"exchange": exchange, "routing_key": victim.name}
                    stage.publish(orjson.dumps({"method": "ping", "ticket": "t", "reply_to": reply_to}))
                assert set(stage.send("ping")) == {"1@a"}
                assert [command for command, _ in told.heard] == ["ping"] * 6
                assert queue.get(no_ack=True) is None
            finally:
                queue.delete()

    @pytest.mark.parametrize(
        "address",
        [{"destination": "1@a"}, {"destination": ["2@a"]}, {"pattern": ".*", "matcher": "pcre"},
         {"pattern": "*"}, {"matcher": "glob"}, {"pattern": "*" * 300, "matcher": "glob"}],
    )  # fmt: skip
    def test_who_is_not_surely_meant_does_nothing(self, stage, address):
        told = stage.node("1@a")
        stage.publish(orjson.dumps({"method": "pause", **address}))
        stage.send("ping", to="1@a")
        assert told.heard == [("ping", {})]

    def test_who_starts_asks_the_others(self, stage):
        row = {"route": "r", "ids": {"1": 5.0}, "keys": {}}
        old = stage.node("1@a", knows=[row])
        new = stage.node("2@a")
        assert new.adopted == [row]
        assert old.adopted == []
        assert (old.greeted, new.greeted) == ([{"node": "2@a"}], [])

    def test_it_ends(self, stage):
        stage.node("1@a")
        stage.nodes["1@a"].stop()
        assert stage.nodes["1@a"].notes() == ["control: its thread has died; see the log"]
        assert stage.send("ping") == {}


class TestMemory(Contract):
    """kombu's own, within one process."""

    @pytest.fixture
    def url(self):
        return "memory://"


@pytest.mark.integration
class TestQueueFile(Contract):
    """The embedded queue."""

    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite-queue:///{tmp_path}/queue.db"

    def test_no_queue_is_left(self, stage):
        stage.node("1@a")
        stage.send("ping")
        stage.nodes["1@a"].stop()
        with stage.broker.connection() as connection:
            rows = connection.connection.file.rows("SELECT name FROM queues")
        assert rows == []


@pytest.mark.integration
class TestRabbitMQ(Contract):
    """The real one, in the versions that the fixture has."""

    patience = 1.0

    @pytest.fixture
    def url(self, rabbitmq):
        return rabbitmq.url

    def test_a_lost_connection_is_made_anew(self, stage, rabbitmq):
        told = stage.node("1@a")
        rabbitmq.close_all_connections()
        wait_for(lambda: [line for line in stage.logs if line["event"] == "control_away"], "the loss")
        wait_for(lambda: not stage.nodes["1@a"].notes(), "another connection", timeout=30)
        assert set(stage.send("ping")) == {"1@a"}
        assert told.heard == [("ping", {})]


@pytest.mark.integration
class TestRedis(Contract):
    """kombu's transport over Redis."""

    patience = 1.0

    @pytest.fixture
    def url(self, redis):
        return redis.url


@pytest.mark.parametrize("text", ["a,b", "1@a,b", "1@*,2@a"])
def test_several_patterns_are_refused(text):
    with pytest.raises(ValueError, match="several nodes are named in full"):
        destination_of(text)
