"""The doctor at real servers: set-ups that are broken on purpose, what it says, and that it changes nothing.

Its words stand in docs/doctor.md, and are compared; ``WRITE_PAGES=1`` writes them there.
"""

from __future__ import annotations

import http.server
import os
import re
import threading
import time
from email.utils import formatdate
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from aggregator.doctor.__main__ import main
from producers.network import free_port
from tests.service import channel_of, outgoing, publish

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
#: What differs from run to run, and what the page has in its place.
SAME = (
    (r"(after|in) [\d.]+ ms", r"\1 7 ms"),
    (r"within [\d.]+ s\)", "within 0.6 s)"),
    (r"RabbitMQ 4\.0\.\d+", "RabbitMQ 4.0.5"),
    (r"Elasticsearch \d+\.\d+\.\d+", "Elasticsearch 9.5.3"),
    (r"(disk of )\S+: \d+ %", r"\1node-1: 31 %"),
    (r"node \S+: its clock", "node node-1: its clock"),
)
NOTHING, ANYTHING = "^$", ".*"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()  # of the default sink
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def doctor(capsys):
    """Run it; return what was found worse than ok, by what it is about, and the exit code."""

    def run(*flags):
        code = main([*flags, "--format", "json"])
        places = orjson.loads(capsys.readouterr().out)["places"]
        findings = [finding for place in places for finding in place["findings"]]
        assert not [each for each in findings if "broke off" in each["says"]]
        return code, [each for each in findings if each["level"] != "ok"]

    return run


@pytest.fixture
def told(capsys):
    """Run it; compare what it says of one kind of place with a section of the page."""

    def compare(title, place, names, *flags):
        main(list(flags))
        text = capsys.readouterr().out
        (block,) = [block for block in text.split("\n\n") if block.startswith(place)]
        for server, shown in names.items():
            block = block.replace(server, shown)
        block = block.replace("127.0.0.1", "broker.example")
        for pattern, same in SAME:
            block = re.sub(pattern, same, block)
        page = PAGE.read_text()
        section = re.compile(rf"(## {re.escape(title)}\n.*?```text\n)(.*?)(\n```\n)", re.DOTALL)
        found = section.search(page)
        assert found, f"docs/doctor.md has no section {title!r}"
        if os.environ.get("WRITE_PAGES"):
            PAGE.write_text(page[: found.start(2)] + block + page[found.end(2) :])
        else:
            assert block.splitlines() == found[2].splitlines()

    return compare


@pytest.fixture
def user(rabbitmq4):
    """A factory of users with these rights (configure, write, read); return the broker's URL for one."""
    made = []

    def make(*rights, name="worker"):
        made.append(name)
        rabbitmq4.ctl("add_user", name, "secret")
        rabbitmq4.ctl("set_permissions", name, *rights)
        return rabbitmq4.url.replace("guest:guest", f"{name}:secret")

    yield make
    for name in made:
        rabbitmq4.ctl("delete_user", name)


@pytest.fixture
def orders(rabbitmq4):
    """The queue of the page, and a function that declares it."""

    def declare(name="orders", **arguments):
        with channel_of(rabbitmq4.url) as channel:
            given = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=given)

    yield declare
    rabbitmq4.delete_queues("orders", "orders.dead")


def host(url):
    return re.search(r"@?([\w.]+:\d+)", url.partition("@")[2] or url)[1]


def at(server, shown="broker.example:5672"):
    return {host(server.url): shown}


def by(found, level):
    return [(each["about"], each["says"]) for each in found if each["level"] == level]


def queues(server):
    return set(server.ctl("list_queues", "name").split())


# ── both versions ──


def test_a_healthy_set_up_and_nothing_is_changed(doctor, rabbitmq, queue):
    publish(rabbitmq.url, queue, [outgoing(queue, 1), outgoing(queue, 2)])
    before = queues(rabbitmq)
    code, found = doctor("--broker", rabbitmq.url, "--queue", queue)
    assert code == 0, found
    assert queues(rabbitmq) == before, "the dead-letter queue is not there, and was not made"
    counts = rabbitmq.counts(queue)
    assert (counts.ready, counts.unacked) == (2, 0)
    old = ("server", "RabbitMQ 3.10") if rabbitmq.version == "3.10" else None
    assert [each["about"] for each in found] == ["server"] * bool(old) + ["management API"]


ARGUMENTS = {
    "x-max-length": 100,
    "x-message-ttl": 60_000,
    "x-overflow": "reject-publish",
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "elsewhere",
    "x-single-active-consumer": True,
}


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_arguments_are_seen_without_the_management_api(doctor, rabbitmq, queue, kind):
    given = {**ARGUMENTS, "x-queue-type": kind} | ({"x-delivery-limit": 9} if kind == "quorum" else {})
    with channel_of(rabbitmq.url) as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=given)
    code, found = doctor("--broker", rabbitmq.url, "--queue", queue)
    assert code == 1
    about = f"queue {queue!r}"
    says = [each["says"] for each in found if each["about"] == about]
    assert "x-max-length 100 messages, overflow reject-publish" in says
    assert "x-message-ttl 1m" in says
    assert any(text.startswith("x-single-active-consumer") for text in says)
    assert ("delivery limit 9, and delivery_limit is 15" in says) == (kind == "quorum")


def test_a_frozen_broker_is_given_up(doctor, rabbitmq4):
    rabbitmq4.pause()
    try:
        began = time.monotonic()
        code, found = doctor("--broker", rabbitmq4.url)
        assert time.monotonic() - began < 10  # 5 s, on a machine that has much to do
    finally:
        rabbitmq4.resume()
    assert code == 2
    assert "no answer within" in found[-1]["says"] or "no answer within" in found[0]["says"]


# ── set-ups that are broken on purpose ──


def test_a_wrong_password(told, doctor, rabbitmq4):
    url = rabbitmq4.url.replace("guest:guest", "worker:wrong")
    told("A wrong password", "broker", at(rabbitmq4), "--broker", url, "--queue", "orders")
    assert doctor("--broker", url)[0] == 2


def test_a_queue_that_throws_away(told, rabbitmq4, orders):
    orders(max_length=10_000)
    told(
        "A queue that throws messages away",
        "broker",
        at(rabbitmq4),
        "--broker",
        rabbitmq4.url,
        "--queue",
        "orders",
    )


def test_rights_that_are_missing(told, doctor, rabbitmq4, orders, user):
    orders()
    url = user("^orders", "^nothing$", "^orders")
    told("No right to dead-letter", "broker", at(rabbitmq4), "--broker", url, "--queue", "orders")
    rabbitmq4.ctl("set_permissions", "worker", NOTHING, ANYTHING, NOTHING)
    code, found = doctor("--broker", url, "--queue", "orders")
    assert code == 2
    assert by(found, "error") == [
        ("queue 'orders'", "user 'worker' may not take from it"),
        ("queue 'orders.dead'", "user 'worker' may not declare it"),
    ]
    assert "orders.dead" not in queues(rabbitmq4)


def test_a_delivery_limit_and_dead_letters(told, rabbitmq4, orders):
    orders(queue_type="quorum", delivery_limit=5)
    publish(rabbitmq4.url, "orders.dead", [outgoing("orders.dead", number) for number in range(3)])
    flags = ("--broker", rabbitmq4.url, "--queue", "orders")
    told("A delivery limit below ours, and dead letters", "broker", at(rabbitmq4), *flags)


def test_an_exchange_as_a_sink(doctor, rabbitmq4):
    sink = f"exchange+{rabbitmq4.url}?exchange=no.such.{uuid4().hex}"
    code, found = doctor("--broker", rabbitmq4.url, "--sink", sink)
    assert code == 2
    assert [says for _, says in by(found, "error")] == ["is not there"]
    assert doctor("--sink", f"exchange+{rabbitmq4.url}?exchange=amq.topic")[0] == 0


def test_an_index_that_nobody_may_make(told, doctor, elasticsearch):
    def settings(value):
        elasticsearch.call("PUT", "/_cluster/settings", {"persistent": {"action.auto_create_index": value}})

    name = f"orders-{uuid4().hex[:6]}"
    sink = f"elasticsearch+{elasticsearch.url}/{name}"
    names = {host(elasticsearch.url.removeprefix("http://")): "search.example:9200", name: "orders"}
    assert doctor("--sink", sink)[0] == 0
    settings("-orders*,+*")
    try:
        told("An index that nobody may make", "sink", names, "--sink", sink)
    finally:
        settings(None)
    mapping = {"dynamic": "strict", "_routing": {"required": True}, "properties": {"a": {"type": "keyword"}}}
    elasticsearch.call("PUT", f"/{name}", {"mappings": mapping})
    try:
        code, found = doctor("--sink", sink)
        assert code == 2
        assert by(found, "error") == [(f"index {name!r}", "its mapping requires a routing value")]
        assert "dynamic strict, 1 fields" in [says for _, says in by(found, "note")]
        elasticsearch.call("PUT", f"/{name}/_settings", {"index.blocks.read_only_allow_delete": True})
        told("An index that is read-only", "sink", names, "--sink", sink)
    finally:
        elasticsearch.call("DELETE", f"/{name}")


def test_opensearch_is_asked_the_same(doctor, opensearch):
    code, found = doctor("--sink", f"opensearch+{opensearch.url}/orders-{uuid4().hex[:6]}")
    assert code == 0, found


class WrongClock(http.server.BaseHTTPRequestHandler):
    def do_OPTIONS(self):
        self.send_response_only(200)
        self.send_header("date", formatdate(time.time() - 600, usegmt=True))
        self.end_headers()

    def do_HEAD(self):
        self.do_OPTIONS()

    def log_message(self, *_):
        pass


def test_a_wrong_clock(told):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WrongClock)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        names = {f"127.0.0.1:{server.server_port}": "hook.example:80"}
        url = f"webhook+http://127.0.0.1:{server.server_port}/orders"
        told("A clock that is wrong", "sink", names, "--sink", url)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_redis_beside_the_sink_and_as_a_broker(doctor, redis):
    url = f"{redis.url.rstrip('/')}"
    code, found = doctor("--seen", f"{url}?ttl=1h", "--broker", url)
    assert code in {0, 1}, found
    assert {each["says"] for each in found} <= {"appendonly is off"}


def test_tubes(doctor, tarantool):
    name = f"t{uuid4().hex[:8]}"
    flags = ("--broker", tarantool.url_of("consumer"), "--queue", name, "--aggregate", "push")
    code, found = doctor(*flags)
    assert code == 2
    assert [about for about, _ in by(found, "error")] == [f"tube '{name}' at {tarantool.uri}"]
    tarantool.eval("tubes.create(...)", name)
    _, found = doctor(*flags)
    assert not by(found, "error")
    wrong = flags[1].replace("secret", "wrong")
    _, found = doctor("--broker", wrong, *flags[2:])
    assert [about for about, _ in by(found, "error")] == [f"server {tarantool.uri}"]


def test_policies_alarms_and_timeouts_by_the_management_api(told, doctor, own_rabbitmq):
    port = str(free_port())
    broker = own_rabbitmq("4.0", management__tcp__port=port, management__tcp__ip="127.0.0.1")
    with channel_of(broker.url) as channel:
        arguments = {"x-consumer-timeout": 60_000}
        channel.queue_declare("orders", durable=True, auto_delete=False, arguments=arguments)
    flags = ("--broker", broker.url, "--queue", "orders", "--management", f"http://127.0.0.1:{port}")
    names = {**at(broker), f":{port}": ":15672"}
    broker.policy("short", "^orders$", {"max-length": 50})
    told("A timeout that is shorter than the work, and a policy", "broker", names, *flags)
    code, found = doctor(*flags, "--ack-deadline", "1m")
    assert code == 2
    assert by(found, "error") == [("queue 'orders'", "policy max-length 50 messages, overflow drop-head")]
    assert not by(found, "note")
    broker.memory_alarm(on=True)
    _, found = doctor(*flags)
    assert any(
        says.startswith("the broker does not read what is published: an alarm")
        for _, says in by(found, "error")
    )
