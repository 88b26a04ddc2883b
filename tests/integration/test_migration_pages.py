"""What docs/migration shows of both sides, on RabbitMQ and Elasticsearch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from consumers.publisher import Outgoing
from tests.page_run import replaced
from tests.pages import ROOT, blocks_of
from tests.servers.base import wait_for
from tests.service import publish

pytestmark = pytest.mark.integration

PAGES = {
    name: list(blocks_of(ROOT / f"docs/migration/{name}.md")) for name in ("camel", "logstash", "telegraf")
}
MIXIN = list(blocks_of(ROOT / "docs/migration/consumer-mixin.md"))
QUEUES = ("events", "lines", "metrics", "task_queue")


@pytest.fixture
def place(rabbitmq4, elasticsearch, tmp_path):
    """A folder for the files of a page, with the tests' servers in the place of those that are shown."""

    def write(block):
        shown = {
            "localhost:5672": urlsplit(rabbitmq4.url).netloc.rpartition("@")[2],
            "localhost:9200": urlsplit(elasticsearch.url).netloc,
        }
        (tmp_path / block.file).write_text(replaced(block.code, shown))
        return tmp_path

    names = [f"{queue}{end}" for queue in QUEUES for end in ("", ".dead")]
    rabbitmq4.delete_queues(*names)
    yield write
    rabbitmq4.delete_queues(*names)
    for index in ("orders", "metrics-2026.01.02", "tasks"):
        elasticsearch.call("DELETE", f"/{index}?ignore_unavailable=true")


def message(queue, body, content_type="application/json"):
    return Outgoing("", queue, body, {"content_type": content_type, "delivery_mode": 2})


def json_of(blocks):
    return [json.loads(block.code) for block in blocks if block.language == "json"]


@pytest.mark.parametrize("page", PAGES)
def test_what_comes_is_written_as_shown(page, place, rabbitmq4, elasticsearch, service):
    (settings,) = [block for block in PAGES[page] if block.language == "toml" and block.file]
    for block in PAGES[page]:
        if block.file:
            folder = place(block)
    (queue,) = re.findall(r'^queue = "(\w+)"', settings.code, re.MULTILINE)
    come, written = json_of(PAGES[page])
    publish(rabbitmq4.url, queue, [message(queue, json.dumps(body).encode()) for body in come])
    running = service("--config", settings.file, "--workers", "1", "--until-empty", folder=folder)
    assert running.wait() == 0, running.last_words()
    index = "metrics-2026.01.02" if page == "telegraf" else "orders"
    assert elasticsearch.count(index) == len(written)
    found = elasticsearch.documents(index).values()
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, written))


def publish_tasks(broker):
    """45 messages, and one that is no JSON."""
    bodies = [message("task_queue", b'{"number": %d}' % number) for number in range(45)]
    publish(broker, "task_queue", [*bodies, message("task_queue", b"words", "text/plain")])


@contextmanager
def program(*command, folder):
    running = subprocess.Popen([sys.executable, *command], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def test_what_was_written_by_hand_loses_messages(place, rabbitmq4, elasticsearch):
    folder = place(MIXIN[0])
    publish_tasks(rabbitmq4.url)
    with program("before.py", folder=folder):

        def is_over():
            counts = rabbitmq4.counts("task_queue")
            return counts.consumers == 5 and counts.ready == counts.unacked == 0

        wait_for(is_over, "an empty queue", timeout=60)
        wait_for(lambda: elasticsearch.count("tasks") == 40, "all that it writes", timeout=60)
    assert elasticsearch.count("tasks") == 40
    assert "of 45 messages and one that is no JSON it writes 40" in (ROOT / MIXIN[0].page).read_text()


def test_the_same_here_writes_all_of_them(place, rabbitmq4, elasticsearch, service):
    folder = place(MIXIN[1])
    publish_tasks(rabbitmq4.url)
    running = service("--config", "tasks.toml", "--until-empty", folder=folder)
    assert running.wait() == 0, running.last_words()
    assert elasticsearch.count("tasks") == 46
    assert sorted(size for _, size in running.batches()) == [6, 20, 20]
