"""Services that are told what to do while they run: over RabbitMQ, over the embedded queue, in processes."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import orjson
import pytest

from aggregator import control
from tests.servers.base import wait_for
from tests.service import ROOT, outgoing, publish

pytestmark = pytest.mark.integration

#: The broker's version makes no difference: tests/contract/test_control.py runs on both.
on_one_broker = pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)
PAGE = ROOT / "docs" / "control.md"


@pytest.fixture
def place(rabbitmq, queue):
    """The flags that say which broker, and that commands are listened to."""
    return ["--broker", rabbitmq.url, "--control-namespace", f"n-{queue[-8:]}"]


@pytest.fixture
def start(service, place, queue, tmp_path):
    """Start a service that listens, from the queue to a file."""
    sink = f"sqlite:///{tmp_path}/documents.db"
    return lambda *flags: service(*place, "--control", "--queue", queue, "--sink", sink, *flags)


@pytest.fixture
def tell(place, capsys):
    """Send a command; return the exit code, the answers by node, and what was said to stderr."""

    def send(*words):
        code = control.main([*place, "--json", *words])
        said = capsys.readouterr()
        return code, orjson.loads(said.out or b"{}"), said.err

    return send


def numbers(path):
    with closing(sqlite3.connect(path)) as base:
        return sorted(orjson.loads(body)["number"] for (body,) in base.execute("SELECT body FROM documents"))


@on_one_broker
def test_processes_rest_write_what_they_hold_and_take_up_again(start, rabbitmq, queue, tell, tmp_path):
    sink = tmp_path / "documents.db"
    running = start(
        "--processes", "2", "--workers", "1", "--prefetch", "50", "--size", "50", "--age", "60s",
        "--metrics-port", "0",
    )  # fmt: skip
    running.wait_event("control_listens", 2)
    for number in (1, 2):
        running.wait_event("route_runs", process=number)
    publish(rabbitmq.url, queue, [outgoing(queue, number) for number in range(20)])
    running.wait_metric("aggregator_held_messages", lambda held: held == 20)
    code, answers, said = tell("pause")
    assert (code, len(answers)) == (0, 2), (said, running.last_words())

    def states():
        rows = [row for answer in tell("stats")[1].values() for row in answer["ok"]]
        return {row["state"] for row in rows}

    wait_for(lambda: states() == {"paused"}, "both rest", timeout=30)
    assert numbers(sink) == list(range(20))
    wait_for(lambda: rabbitmq.counts(queue).consumers == 0, "no consumer")
    status, text = running.ready()
    assert (status, text.count("default: paused: told to by control")) == (503, 2)
    assert running.metric("aggregator_route_state", state="paused") == 2
    assert running.metric("aggregator_deliveries_total", verdict="given_back") == 0
    publish(rabbitmq.url, queue, [outgoing(queue, number) for number in range(20, 40)])
    assert tell("revoke", *(f"{queue}-{number}" for number in range(20, 30)))[0] == 0
    assert tell("set", "default", "age=200ms")[0] == 0
    assert tell("resume")[0] == 0
    running.wait_metric("aggregator_deliveries_total", lambda count: count == 10, verdict="revoked")
    wait_for(lambda: numbers(sink) == [*range(20), *range(30, 40)], "the rest", timeout=30)
    assert running.metric("aggregator_deliveries_total") == 40
    assert running.metric("aggregator_control_listens") == 2
    assert running.stop() == 0


@on_one_broker
def test_a_process_that_starts_later_knows_what_is_revoked(start, rabbitmq, queue, tell, tmp_path):
    sink = tmp_path / "documents.db"
    first = start("--size", "5")
    first.wait_event("control_listens")
    first.wait_event("route_runs")
    assert tell("revoke", f"{queue}-1", "--ttl", "1h")[0] == 0
    second = start("--size", "5")
    second.wait_event("revocations_taken_over", number=1)
    assert first.stop() == 0
    publish(rabbitmq.url, queue, [outgoing(queue, number) for number in range(3)])
    wait_for(lambda: rabbitmq.counts(queue).unacked == 0 == rabbitmq.counts(queue).ready, "an empty queue")
    assert numbers(sink) == [0, 2]
    assert second.stop() == 0


def test_routes_work_while_commands_do_not_come(service, tmp_path):
    broker = f"sqlite-queue:///{tmp_path}/queue.db"
    publish(broker, "q", [outgoing("q", number) for number in range(5)])
    running = service(
        "--broker", broker, "--queue", "q", "--sink", f"sqlite:///{tmp_path}/documents.db", "--size", "5",
        "--control", "--control-broker", "amqp://guest:S3CRET@127.0.0.1:1//", "--metrics-port", "0",
    )  # fmt: skip
    running.wait_event("batch")
    wait_for(lambda: running.ready()[0] == 200, "readiness")
    assert running.ready()[1].startswith("ok\ncontrol: the broker is not to be had (")
    assert running.metric("aggregator_control_listens") == 0
    assert numbers(tmp_path / "documents.db") == list(range(5))
    assert "S3CRET" not in running.last_words()
    assert running.stop() == 0


@on_one_broker
def test_rights_for_commands(service, rabbitmq, tell, tmp_path, place):
    """The service may do what docs/security.md says, and whoever commands it no more than that."""
    page = (ROOT / "docs" / "security.md").read_text()
    (row,) = re.findall(r"^\| `--control`, besides;[^|]*\|(.*)\|$", page, re.MULTILINE)
    rights = [cell.strip().strip("`").replace("aggregator", place[-1]) for cell in row.split(" | ")]
    name = place[-1]
    rabbitmq.ctl("add_user", name, "secret")
    try:
        rabbitmq.ctl("set_permissions", name, *rights)
        theirs = rabbitmq.url.replace("guest:guest", f"{name}:secret")
        broker = f"sqlite-queue:///{tmp_path}/queue.db"
        flags = ("--control-namespace", place[-1], "--control-broker", theirs)
        sink = f"sqlite:///{tmp_path}/documents.db"
        running = service("--broker", broker, "--control", *flags, "--sink", sink)
        running.wait_event("control_listens")
        assert tell(*flags, "ping")[0] == 0
        rabbitmq.ctl("set_permissions", name, "^$", "^$", "^$")
        code, answers, said = tell(*flags, "ping")
        assert (code, answers) == (1, {})
        assert "ACCESS_REFUSED" in said
        assert "secret" not in said
        assert running.stop() == 0
    finally:
        rabbitmq.ctl("delete_user", name)


# ── the page ──


def examples():
    """Yield each command of the page with what it prints there."""
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for example in block.split("$ python -m aggregator.control ")[1:]:
            command, _, output = example.partition("\n")
            yield command, output


def bare(text):
    """Return words without what differs from run to run: nodes, numbers of processes, seconds."""
    text = re.sub(r"\d+@[\w.-]+", "NODE", text)
    return [re.sub(r"^\d+(\.\d+)?$", "#", word) for word in text.split()]


def test_the_examples_of_the_page(service, tmp_path, monkeypatch, capsys):
    broker = f"sqlite-queue:///{tmp_path}/queue.db"
    monkeypatch.setenv("AGGREGATOR_BROKER", broker)
    running = service(
        "--broker", broker, "--queue", "orders", "--sink", f"sqlite:///{tmp_path}/documents.db",
        "--correlate", "header:order", "--size", "20", "--age", "10m", "--control", "--metrics-port", "0",
    )  # fmt: skip
    running.wait_event("control_listens")
    running.wait_event("route_runs")
    messages = [
        outgoing("orders", n, headers={"order": order}) for n, order in enumerate(["4711"] * 3 + ["4712"] * 2)
    ]
    publish(broker, "orders", messages)
    running.wait_metric("aggregator_held_messages", lambda held: held == 5)
    commands = set()
    for command, output in examples():
        commands.add(command.split()[0])
        code = control.main(command.split())
        said = capsys.readouterr()
        assert bare(said.out + said.err) == bare(output), command
        assert code == (1 if said.err else 0)
        if command == "pause":
            running.wait_metric("aggregator_route_state", lambda rests: rests == 1, state="paused")
    assert commands == {"ping", "stats", "groups", "flush", "pause", "resume", "revoke", "set"}
    assert running.stop() == 0
