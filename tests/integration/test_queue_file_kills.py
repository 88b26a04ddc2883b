"""What the queue file promises when processes are killed or stop: real ones, and real signals."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kombu import Connection, Consumer

from consumers.transports import register
from tests.integration.queue_file_child import PATIENCE, QUEUE

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]

# Long enough that only the end of a process, never that of a lease, can explain a redelivery.
AN_HOUR = "lease=1h"


@contextmanager
def child(role, url):
    command = [sys.executable, "-m", "tests.integration.queue_file_child", role, url]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def url(tmp_path):
    register()
    return f"sqlite-queue:///{tmp_path}/queue.db?{AN_HOUR}"


@pytest.fixture
def connection(url):
    with Connection(url) as connection:
        QUEUE(connection.default_channel).declare()
        yield connection


def publish(connection, count):
    with connection.default_channel.create_publish_batch(1000) as batch:
        for number in range(count):
            batch.publish(connection.default_channel.prepare_message(b"%d" % number), routing_key=QUEUE.name)


def take_all(connection, count):
    taken = []
    end = time.monotonic() + PATIENCE
    with Consumer(connection, [QUEUE], on_message=taken.append):
        while len(taken) < count:
            assert time.monotonic() < end, f"{len(taken)} of {count} came"
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.2)
    return taken


def test_a_killed_consumers_messages_come_to_another(connection, url):
    publish(connection, 50)
    with child("hold", url) as process:
        assert process.stdout.readline() == "50\n"
        assert connection.default_channel.queue_counts(QUEUE.name)[:2] == (0, 50)
        process.kill()
        taken = take_all(connection, 50)
    assert [message.body for message in taken] == [b"%d" % number for number in range(50)]
    assert all(message.delivery_info["redelivered"] for message in taken)
    assert {message.headers["x-delivery-count"] for message in taken} == {1}
    taken[-1].ack(multiple=True)
    assert connection.default_channel.queue_counts(QUEUE.name)[:2] == (0, 0)


def test_each_kill_counts_as_a_delivery(connection, url):
    publish(connection, 1)
    for _ in range(3):
        with child("hold", url) as process:
            assert process.stdout.readline() == "1\n"
            process.kill()
    (message,) = take_all(connection, 1)
    assert message.headers["x-delivery-count"] == 3


def test_what_a_killed_producer_had_confirmed_is_there(connection, url):
    with child("produce", url) as process:
        confirmed = [process.stdout.readline() for _ in range(200)]
        process.kill()
        # the last line may have been cut off by the kill
        confirmed += [line for line in process.stdout if line.endswith("\n")]
    stored = connection.default_channel.queue_counts(QUEUE.name).ready
    assert len(confirmed) <= stored <= len(confirmed) + 1
    taken = take_all(connection, stored)
    assert [message.body for message in taken] == [b"%d" % number for number in range(stored)]


def test_a_stopped_consumer_loses_its_lease_and_learns_it(tmp_path, connection):
    url = f"sqlite-queue:///{tmp_path}/queue.db?lease=1s"
    publish(connection, 10)
    with child("hang", url) as process:
        assert process.stdout.readline() == "10\n"
        process.send_signal(signal.SIGSTOP)
        taken = take_all(connection, 10)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "lease lost\n"
    # its ack has deleted nothing
    assert connection.default_channel.queue_counts(QUEUE.name)[:2] == (0, 10)
    assert len(taken) == 10


def test_nothing_is_lost_while_consumers_are_killed_at_random(tmp_path, connection, url):
    total = 5000
    publish(connection, total)
    journals = [tmp_path / f"journal-{number}" for number in range(4)]
    for journal in journals:
        journal.touch()
    dice = random.Random(3)
    end = time.monotonic() + PATIENCE
    running, sizes, kills = {}, {}, 0
    with child_set(running):
        while connection.default_channel.queue_counts(QUEUE.name)[:2] != (0, 0):
            assert time.monotonic() < end, connection.default_channel.queue_counts(QUEUE.name)
            for journal in set(journals) - running.keys():
                sizes[journal] = journal.stat().st_size
                running[journal] = start_writer(url, journal)
            time.sleep(dice.uniform(0.02, 0.1))
            # only who has written something since his start is worth killing
            busy = [journal for journal in journals if journal.stat().st_size > sizes[journal]]
            if busy and kills < 6:
                stop(running.pop(dice.choice(busy)))
                kills += 1
    written = [line for journal in journals for line in journal.read_bytes().splitlines()]
    assert set(written) == {b"%d" % number for number in range(total)}
    assert kills == 6


def start_writer(url, journal):
    command = [sys.executable, "-m", "tests.integration.queue_file_child", "write", url, str(journal)]
    return subprocess.Popen(command, cwd=ROOT)


def stop(process):
    process.kill()
    process.wait()


@contextmanager
def child_set(running):
    try:
        yield
    finally:
        for process in running.values():
            stop(process)


def test_a_forked_child_does_not_keep_its_parent_alive(connection, url):
    publish(connection, 3)
    with child("fork", url) as process:
        assert process.stdout.readline() == "3\n"
        process.kill()
        process.wait()
        # its child lives until the pipe is closed
        assert len(take_all(connection, 3)) == 3
