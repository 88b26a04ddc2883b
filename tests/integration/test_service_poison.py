"""A message that kills the process, or that the user's function never stands: it goes alone in the end.

The service is started again each time it dies, as an orchestrator would, until its queue is empty.
"""

from __future__ import annotations

from functools import partial

import orjson
import pytest

from consumers import transports
from tests.servers.base import wait_for
from tests.service import ROOT, channel_of, outgoing, publish, taken

pytestmark = pytest.mark.integration
transports.register()

INNOCENTS = 300
LIMIT = 15
#: The user's sink: it notes each document with its count, and dies, or raises, at the culprit's.
SINK = """
import os, signal
from aggregator.intake import delivered_before

def write(items):
    for item in items:
        if b'"poison"' in item.document:
            POISON
    with open("written", "a") as notes:
        for item in items:
            notes.write(f"{item.document.decode()}\\t{delivered_before(item.deliveries[0])}\\n")
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
RAISE = "raise RuntimeError('never')"


@pytest.fixture
def folder(tmp_path):
    """Where the service runs: the user's module, and what it notes."""
    (tmp_path / "data").mkdir()
    return tmp_path


def write_sink(folder, poison):
    (folder / "users_sink.py").write_text(SINK.replace("POISON", poison))


def fill(broker, queue, culprits, *, keys=7):
    messages = []
    for number in range(INNOCENTS):
        headers = {"key": f"k{number % keys}"}
        body = orjson.dumps({"number": number, **({"poison": True} if number in culprits else {})})
        messages.append(outgoing(queue, number, body=body, headers=headers))
    publish(broker, queue, messages)


def noted(folder):
    """Return of each number that was written how often it had been delivered before, at most."""
    found = {}
    for line in (folder / "written").read_text().splitlines():
        document, delivered = line.split("\t")
        number = orjson.loads(document)["number"]
        found[number] = max(found.get(number, 0), int(delivered))
    return found


def is_noted(folder, number):
    return (folder / "written").exists() and number in noted(folder)


def run(service, folder, *flags, broker=None, queue=""):
    """Start the service again and again until it ends by itself; return how often it was killed.

    And until the broker, if there is one, counts nothing: right after a death, before it has noticed,
    the queue looks empty to those who consume.
    """
    deaths, ends = 0, 0
    while deaths < 100:
        running = service(
            "--sink", "function:users_sink:write", "--until-empty", "--size", "50", "--age", "200ms",
            *flags, folder=folder, environment={"PYTHONPATH": f"{folder}:{ROOT}"},
        )  # fmt: skip
        code = running.wait()
        ends = ends + 1 if code == 0 else 0
        if ends == 2 if broker is None else ends and is_empty(broker, queue):
            return deaths, running
        assert code in {0, -9}, running.last_words()
        deaths += code == -9
    raise AssertionError("it never ends")


def is_empty(broker, queue):
    counts = broker.counts(queue)
    return counts.ready == counts.unacked == 0


def check(folder, letters, deaths, culprits):
    found = noted(folder)
    print(f"{deaths} deaths, an innocent's largest count {max(found.values())}")
    assert found.keys() == set(range(INNOCENTS)) - culprits
    assert max(found.values()) < LIMIT
    assert {orjson.loads(letter.body)["number"] for letter in letters} == culprits
    assert {letter.headers["x-aggregator-reason"] for letter in letters} == {"delivery-limit"}
    assert deaths <= LIMIT * len(culprits)


@pytest.mark.parametrize("keyed", [False, True], ids=["keyless", "keyed"])
def test_the_embedded_queue(service, folder, keyed):
    broker = f"sqlite-queue:///{folder}/data/queue.db"
    write_sink(folder, KILL)
    fill(broker, "task_queue", {17})
    deaths, _ = run(service, folder, *(("--correlate", "header:key") if keyed else ()))
    check(folder, taken(broker, "task_queue.dead"), deaths, {17})


@pytest.mark.parametrize("culprits", [{17}, {0, 150, 299}], ids=["one", "three"])
def test_a_quorum_queue(rabbitmq4, service, folder, culprits):
    queue = f"poison-{folder.name}"
    with channel_of(rabbitmq4.url) as channel:
        arguments = {"x-queue-type": "quorum"}
        channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=arguments)
    try:
        write_sink(folder, KILL)
        fill(rabbitmq4.url, queue, culprits)
        flags = ("--broker", rabbitmq4.url, "--queue", queue)
        deaths, _ = run(service, folder, *flags, broker=rabbitmq4, queue=queue)
        check(folder, taken(rabbitmq4.url, f"{queue}.dead"), deaths, culprits)
    finally:
        rabbitmq4.delete_queues(queue, f"{queue}.dead")


def test_a_single_active_consumer(rabbitmq4, service, folder):
    """There the broker allows no get: all is pushed."""
    queue = f"poison-{folder.name}"
    with channel_of(rabbitmq4.url) as channel:
        arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
        channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=arguments)
    try:
        write_sink(folder, KILL)
        fill(rabbitmq4.url, queue, {17})
        flags = ("--broker", rabbitmq4.url, "--queue", queue, "--workers", "1")
        deaths, last = run(service, folder, *flags, broker=rabbitmq4, queue=queue)
        assert last.events("queue_without_get")
        check(folder, taken(rabbitmq4.url, f"{queue}.dead"), deaths, {17})
    finally:
        rabbitmq4.delete_queues(queue, f"{queue}.dead")


def test_a_function_that_never_stands_one_document(service, folder):
    """It is given up alone while others go on; nothing else is refused."""
    broker = f"sqlite-queue:///{folder}/data/queue.db"
    write_sink(folder, RAISE)
    fill(broker, "task_queue", {17})
    running = service(
        "--sink", "function:users_sink:write", "--size", "50", "--age", "200ms", "--ack-deadline", "20s",
        "--deadline-share", "0.1", "--retry-max", "200ms",
        folder=folder, environment={"PYTHONPATH": f"{folder}:{ROOT}"},
    )  # fmt: skip
    number = INNOCENTS
    while not running.events("dead_letters_published"):
        publish(broker, "task_queue", [outgoing("task_queue", number)])
        number += 1
        wait_for(partial(is_noted, folder, number - 1), "the next one")
    assert running.stop() == 0
    assert noted(folder).keys() == set(range(number)) - {17}
    assert not running.events("route_waits")
    (letter,) = taken(broker, "task_queue.dead")
    assert orjson.loads(letter.body)["number"] == 17
    assert letter.headers["x-aggregator-reason"] == "retries-exhausted"
