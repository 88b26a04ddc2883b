"""The example of docs/topology.md on RabbitMQ: what it declares, where messages go, what is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing, suppress
from pathlib import Path

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from aggregator.config import load
from aggregator.errors import UnrecoverableError
from consumers.broker_source import BrokerSource
from consumers.declaring import ensure
from consumers.publisher import Outgoing, Publisher
from consumers.topology import declare_plan
from consumers.topology_compare import compare
from tests.servers.base import wait_for
from tests.service import channel_of, taken

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/topology.toml"


@pytest.fixture
def vhost(rabbitmq):
    """The URL of a virtual host of its own; all that is in it goes with it."""
    name = f"test-{uuid.uuid4().hex}"
    rabbitmq.ctl("add_vhost", name)
    rabbitmq.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    yield rabbitmq.url.removesuffix("/") + name
    rabbitmq.heal()
    rabbitmq.ctl("delete_vhost", name)


def consume(tmp_path, text, *flags):
    """Run the service with a file to its end; return what it said and its exit code."""
    path = tmp_path / "settings.toml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "aggregator.consume", "--config", str(path), "--log-format", "json", *flags],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr, done.returncode


def publish(url, *messages):
    """Publish (exchange, routing key, headers), each confirmed; return what became of them."""
    publisher = Publisher(url)
    try:
        return publisher.publish(
            [
                Outgoing(
                    exchange, key, b'{"key": "%s"}' % key.encode(),
                    {"delivery_mode": 2, "content_type": "application/json", "headers": headers,
                     "message_id": uuid.uuid4().hex},
                )
                for exchange, key, headers in messages
            ]
        )  # fmt: skip
    finally:
        publisher.close()


def written(tmp_path, name):
    """Return the keys of what a route has written; nothing before its table is there."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(tmp_path / f"data/{name}.db")) as database,
    ):
        return sorted(row[0] for row in database.execute("SELECT json_extract(body, '$.key') FROM documents"))
    return []


def test_the_example_takes_each_message_where_it_says(rabbitmq, vhost, service, tmp_path):
    flags = ("--config", str(EXAMPLE), "--broker", vhost, "--workers", "1")
    (tmp_path / "data").mkdir()
    running = service(*flags, folder=tmp_path)
    wait_for(lambda: consumers(vhost, "orders", "invoices", "live", "media", "rest"), "consumers", timeout=60,
             detail=running.last_words)  # fmt: skip
    outcomes = publish(
        vhost,
        ("shop", "order.new", {}),
        ("shop", "refund", {}),
        ("shop", "basket.left", {}),
        ("documents", "i1", {"kind": "invoice", "format": "pdf"}),
        ("documents", "i2", {"kind": "letter", "urgent": True}),
        ("documents", "i3", {"kind": "invoice", "format": "txt"}),
        ("routes", "video.live.cut", {}),
        ("routes", "video.encode", {}),
        ("routes", "mail", {}),
        ("", "orders.retry", {}),
    )
    # nobody asked for the letter, and the headers exchange has no other place for it
    assert outcomes == [None] * 5 + ["unroutable"] + [None] * 4
    expected = {
        "orders": ["order.new", "refund"], "invoices": ["i1", "i2"], "live": ["video.live.cut"],
        "media": ["video.encode"], "rest": ["mail"],
    }  # fmt: skip
    wait_for(
        lambda: {name: written(tmp_path, name) for name in expected} == expected, "documents",
        timeout=60, detail=running.last_words,
    )  # fmt: skip
    assert running.stop() == 0
    keys = [message.delivery_info["routing_key"] for message in taken(vhost, "audit")]
    assert sorted(keys) == ["basket.left", "order.new", "refund"]
    assert [message.delivery_info["routing_key"] for message in taken(vhost, "unrouted")] == []
    text, code = consume(tmp_path, EXAMPLE.read_text(), "--broker", vhost, "--check", "--connect")
    assert code == 0, text
    assert "queues.orders: is there, as it is written; 2 bindings to be made" in text
    assert "queues.rest: is there" in text


def consumers(url, *queues):
    """Tell whether each of the queues has a consumer."""
    with channel_of(url) as channel:
        try:
            return all(channel.queue_declare(queue, passive=True).consumer_count for queue in queues)
        except channel.connection.client.channel_errors:
            return False


def plan_of(tmp_path, text, broker, route="r"):
    """Return what a route of this file has to declare."""
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return load(["--config", str(path), "--broker", broker]).routes[route].topology


def declare(url, plan, *, insist=True):
    """Declare it; return the lines of what was refused."""
    with Connection(url) as connection:
        try:
            declare_plan(connection, plan, insist=insist)
        except UnrecoverableError as exc:
            return str(exc).splitlines()
    return []


BEFORE = """
[exchanges.e]
type = "topic"
[queues.q]
type = "classic"
message_ttl = "30s"
max_length = 10
bindings = [{ exchange = "e", pattern = "a.*" }]
[routes.r]
queue = "q"
"""


def test_each_argument_that_differs_is_named(vhost, tmp_path):
    assert declare(vhost, plan_of(tmp_path, BEFORE, vhost)) == []
    changes = {
        '"30s"': '"1h"', "max_length = 10": 'dead_letter_exchange = "amq.direct"', ', pattern = "a.*"': "",
        'type = "topic"': 'type = "fanout"\nalternate_exchange = "amq.fanout"',
    }  # fmt: skip
    after = BEFORE
    for old, new in changes.items():
        assert old in after
        after = after.replace(old, new)
    other = plan_of(tmp_path, after, vhost)
    lines = declare(vhost, other)
    fields = sorted(line.partition(": ")[0] for line in lines)
    assert fields == [
        "exchanges.e.alternate_exchange", "exchanges.e.type", "queues.q.dead_letter_exchange",
        "queues.q.max_length", "queues.q.message_ttl",
    ]  # fmt: skip
    told = "\n".join(lines)
    assert (
        'queues.q.message_ttl: "1h" is wanted, at the broker it is "30s"; write message_ttl = "30s"' in told
    )
    assert "queues.q.max_length: not set is wanted, at the broker it is 10; write max_length = 10" in told
    assert 'exchanges.e.type: "fanout" is wanted, at the broker it is "topic"' in told
    assert declare(vhost, plan_of(tmp_path, BEFORE, vhost)) == []  # what stands was not touched


def test_what_is_checked_has_to_be_there_and_what_is_left_alone_has_not(vhost, tmp_path):
    checked = '[exchanges.e]\ndeclare = "check"\n[queues.q]\ndeclare = "check"\n[routes.r]\nqueue = "q"\n'
    lines = declare(vhost, plan_of(tmp_path, checked, vhost))
    assert [line.partition(":")[0] for line in lines] == ["exchanges.e", "queues.q"]
    assert all("it is not there" in line for line in lines)
    assert declare(vhost, plan_of(tmp_path, checked.replace("check", "leave"), vhost)) == []
    with channel_of(vhost) as channel:
        Exchange("e", "fanout")(channel).declare()
        Queue("q", max_length=3)(channel).declare()
    assert declare(vhost, plan_of(tmp_path, checked, vhost)) == []


def test_a_pattern_that_moves_to_another_route_leaves_the_first_one(vhost, tmp_path):
    text = '[route-map]\n"a.*" = "r"\n"#" = "s"\n[routes.r]\nqueue = "q"\n[routes.s]\nqueue = "z"\n'

    def routed():
        publish(vhost, ("routes", "a.b", {}))
        return len(taken(vhost, "q")), len(taken(vhost, "z"))

    def stand(text):
        for route, queue in (("r", "q"), ("s", "z")):
            with Connection(vhost) as connection:
                ensure(connection, queue, None, plan_of(tmp_path, text, vhost, route), insist=True)

    stand(text)
    assert routed() == (1, 0)
    stand(text.replace('"r"', '"s"', 1).replace('"#" = "s"', '"b.#" = "r"'))
    assert routed() == (0, 1)


def test_the_right_that_is_missing_is_named(rabbitmq, vhost, tmp_path):
    name = vhost.rpartition("/")[2]
    rabbitmq.ctl("add_user", name, "word")
    address = vhost.replace("guest:guest", f"{name}:word")
    try:
        with pytest.raises(
            UnrecoverableError, match=f"user '{name}' has no rights in vhost '{name}'; give them"
        ):
            prepare(tmp_path, address)
        rabbitmq.ctl("set_permissions", "-p", name, name, "^e$", ".*", ".*")
        with pytest.raises(UnrecoverableError, match=r"has not the right to configure queue 'q' in vhost"):
            prepare(tmp_path, address)
        rabbitmq.ctl("set_permissions", "-p", name, name, ".*", ".*", "^q$")
        with pytest.raises(UnrecoverableError, match=r"has not the right to read exchange 'e' in vhost"):
            prepare(tmp_path, address)
        with pytest.raises(UnrecoverableError, match="vhost 'nowhere' is not there; make it"):
            prepare(tmp_path, address, "--vhost", "nowhere")
    finally:
        rabbitmq.ctl("delete_user", name)


def prepare(tmp_path, broker, *flags):
    path = tmp_path / "settings.toml"
    path.write_text(BEFORE)
    settings = load(["--config", str(path), "--broker", broker, *flags])
    BrokerSource(settings.routes["r"], heartbeat=20, on_dead_lettered=print, on_retried=print).prepare()


def test_the_check_says_what_is_there_and_what_differs(vhost, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(BEFORE)
    settings = load(["--config", str(path), "--broker", vhost])

    def found():
        return {each.setting: (each.text.partition(";")[0], each.right) for each in compare(settings)}

    absent = {"exchanges.e": ("would be declared", True), "queues.q": ("would be declared", True)}
    assert found() == absent
    assert found() == absent  # and looking made nothing
    with channel_of(vhost) as channel:
        Queue("q", max_length=10, message_ttl=5)(channel).declare()
    assert found() == {
        "exchanges.e": ("would be declared", True),
        "queues.q.message_ttl": ('"30s" is wanted, at the broker it is "5s"', False),
    }


def test_what_one_route_cannot_declare_stops_no_other(rabbitmq, vhost, service, tmp_path):
    with channel_of(vhost) as channel:
        Queue("bad", max_length=3)(channel).declare()
    (tmp_path / "data").mkdir()
    path = tmp_path / "settings.toml"
    path.write_text(
        "[queues.bad]\nmax_length = 5\n"
        + "".join(f'[routes.{name}]\nqueue = "{name}"\nsink = "sqlite:///data/{name}.db"\nsize = 1\n'
                  for name in ("bad", "good"))
    )  # fmt: skip
    running = service("--config", str(path), "--broker", vhost, folder=tmp_path)
    (line,) = running.wait_event("route_stopped", route="bad")
    assert "queues.bad.max_length: 5 is wanted, at the broker it is 3; write max_length = 3" in line["reason"]
    wait_for(lambda: consumers(vhost, "good"), "a consumer", timeout=60, detail=running.last_words)
    assert publish(vhost, ("", "good", {})) == [None]
    wait_for(
        lambda: written(tmp_path, "good") == ["good"], "a document", timeout=60, detail=running.last_words
    )
    assert running.stop() in {0, 1}
