"""Without any server: the queue and the documents in SQLite files; other transports of kombu."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

import orjson
import pytest

from consumers.publisher import Publisher
from producers import tasks
from tests.service import ROOT, channel_of, outgoing, publish

pytestmark = pytest.mark.integration

QUEUE = "task_queue"


def numbers(folder):
    """Return how often each number was written."""
    with closing(sqlite3.connect(folder / "data" / "documents.db")) as base:
        return Counter(orjson.loads(body)["number"] for (body,) in base.execute("SELECT body FROM documents"))


def fill(folder, count):
    (folder / "data").mkdir(exist_ok=True)
    broker = f"sqlite-queue:///{folder}/data/queue.db"
    publish(broker, QUEUE, [outgoing(QUEUE, number) for number in range(count)])
    return broker


def test_the_defaults(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tasks.main([]) == 0
    running = service("--size", "20", "--until-empty", folder=tmp_path)
    assert running.wait() == 0
    assert running.batches() == [("size", 20), ("size", 20)]
    assert "40 written" in running.output
    assert "documents.db" in running.output
    again = service("--until-empty", folder=tmp_path)
    assert again.wait() == 0
    assert "no messages" in again.output


def test_two_processes_share_a_queue(service, tmp_path):
    fill(tmp_path, 2_000)
    both = [service("--size", "50", "--until-empty", folder=tmp_path) for _ in range(2)]
    assert [running.wait() for running in both] == [0, 0]
    assert numbers(tmp_path) == Counter(range(2_000))
    done = [sum(size for _, size in running.batches()) for running in both]
    assert sum(done) == 2_000


def test_ten_kills(service, tmp_path):
    fill(tmp_path, 4_000)
    chance = random.Random()
    for _ in range(10):
        running = service("--size", "50", "--age", "500ms", folder=tmp_path)
        running.wait_event("route_runs")
        if batches := chance.randrange(0, 6):
            running.wait_event("batch", batches)
        running.kill()
    assert service("--size", "50", "--until-empty", folder=tmp_path).wait() == 0
    assert numbers(tmp_path) == Counter(range(4_000))


def test_a_signal_flushes_what_is_held(service, tmp_path):
    fill(tmp_path, 30)
    running = service("--age", "60s", "--metrics-port", "0", folder=tmp_path)
    running.wait_metric("aggregator_held_messages", lambda held: held == 30)
    assert running.stop() == 0
    assert running.batches() == [("shutdown", 30)]
    assert numbers(tmp_path) == Counter(range(30))


def test_redis(service, tmp_path, redis):
    queue = f"test-{tmp_path.name}"
    # an empty queue is none on Redis: that is no obstacle
    assert service("--broker", redis.url, "--queue", queue, "--until-empty", folder=tmp_path).wait() == 0
    publish(redis.url, queue, [outgoing(queue, number) for number in range(200)])
    publish(redis.url, queue, [outgoing(queue, 200, body=b"{")])
    running = service(
        "--broker", redis.url, "--queue", queue, "--size", "20", "--until-empty", folder=tmp_path
    )
    assert running.wait() == 0
    assert numbers(tmp_path) == Counter(range(200))
    assert "1 dead_lettered" in running.output
    with channel_of(redis.url) as channel:
        assert channel._size(queue) == 0
        assert channel._size(f"{queue}.dead") == 1
        letter = channel.basic_get(f"{queue}.dead", no_ack=True)
    assert letter.headers["x-aggregator-reason"] == "bad-json"


def test_the_file_system(service, tmp_path):
    """kombu's transport reads one folder and writes another: here they are the same."""
    (tmp_path / "data_in").mkdir()
    (tmp_path / "data_out").symlink_to("data_in")
    (tmp_path / "control").mkdir()
    folders = {"data_folder_in": f"{tmp_path}/data_in", "data_folder_out": f"{tmp_path}/data_in"}
    publisher = Publisher(
        "filesystem://", transport_options={**folders, "control_folder": f"{tmp_path}/control"}
    )
    publisher.declare_queue("files")
    assert not any(publisher.publish([outgoing("files", number) for number in range(60)]))
    publisher.close()
    running = service(
        "--broker", "filesystem://", "--queue", "files", "--size", "20", "--until-empty", folder=tmp_path
    )
    assert running.wait() == 0
    assert numbers(tmp_path) == Counter(range(60))


def test_an_absent_queue_is_made(service, tmp_path):
    flags = ("--broker", "memory://", "--queue", "absent", "--until-empty")
    running = service(*flags, folder=tmp_path)
    assert running.wait() == 0
    assert not running.events("link_lost")


#: Messages in memory are seen by one process alone, so it publishes and consumes.
IN_MEMORY = """
import sys
from aggregator import consume
from tests.service import outgoing, publish

publish("memory://", "q", [outgoing("q", number) for number in range(60)])
sys.exit(consume.main(["--broker", "memory://", "--queue", "q", "--size", "20", "--until-empty"]))
"""


def test_memory(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IN_MEMORY]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "60 written" in done.stdout
    assert numbers(tmp_path) == Counter(range(60))
