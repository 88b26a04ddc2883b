"""Celery's own producer and beat, on RabbitMQ and the embedded queue.

The programs are those of docs/migration/celery-batches.md.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery
from celery.beat import Scheduler
from kombu import pools

from aggregator import Aggregator, age, size
from aggregator.consume import main
from consumers.transports import register
from tests.servers.base import wait_for
from tests.service import channel_of

pytestmark = pytest.mark.integration

TEXT = (Path(__file__).parents[2] / "docs/migration/celery-batches.md").read_text()
PROGRAMS = {
    code.partition("\n")[0].removeprefix("# "): code
    for code in re.findall(r"```python\n(# .*?)```", TEXT, re.DOTALL)
}
QUEUES = ("clicks", "clicks.dead")


@pytest.fixture(params=["rabbitmq4", "sqlite"])
def broker(request, tmp_path, monkeypatch):
    """The broker's URL, told to both sides."""
    for name in list(os.environ):
        if name.upper().startswith("AGGREGATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in PROGRAMS.items():
        (tmp_path / name).write_text(code)
    (tmp_path / "data").mkdir()
    register()
    rabbitmq = request.getfixturevalue("rabbitmq4") if request.param == "rabbitmq4" else None
    url = rabbitmq.url if rabbitmq else f"sqlite-queue:///{tmp_path}/data/queue.db"
    monkeypatch.setenv("CELERY_BROKER_URL", url)
    monkeypatch.setenv("AGGREGATOR_BROKER", url)
    yield url
    pools.reset()
    for name in PROGRAMS:
        sys.modules.pop(name.removesuffix(".py"), None)
    if rabbitmq:
        rabbitmq.delete_queues(*QUEUES)
        with channel_of(url) as channel:
            channel.exchange_delete("clicks")


@pytest.fixture(params=[1, 2], ids=["protocol 1", "protocol 2"])
def shop(request, broker):
    """An application of Celery that publishes to the queue."""
    with Celery("shop", set_as_current=False) as app:
        app.conf.update(task_protocol=request.param, task_default_queue="clicks", task_publish_retry=False)
        if broker.startswith("amqp"):
            app.conf.broker_transport_options = {"confirm_publish": True}
        yield app


class Written:
    """What was written: documents by id, and dead letters by reason."""

    def __init__(self, **options):
        self.documents = {}
        app = Aggregator(log_format="json", log_level="warning", workers=1)
        app.route("clicks", sink=self, complete=size(10) | age("50ms"), messages="celery", **options)
        assert app.run(until_empty=True) == 0

    def __call__(self, request):
        self.documents |= {item.id: item.json() for item in request}


def letters(broker):
    """Return the reasons of all dead letters."""
    found = []
    with channel_of(broker) as channel:
        while (letter := channel.basic_get("clicks.dead", no_ack=True)) is not None:
            found.append(letter.headers["x-aggregator-reason"])
    return found


def wait_for_messages(broker, count):
    """Wait for what was published without confirms."""
    with channel_of(broker) as channel:
        wait_for(lambda: channel.queue_declare("clicks", passive=True).message_count == count, "messages")


def test_the_page(broker, capsys):
    assert list(PROGRAMS) == ["tasks.py", "clicks.py"]
    tasks = runpy.run_path("tasks.py", run_name="__main__")
    wait_for_messages(broker, 250)
    assert main(["--app", "clicks:app", "--until-empty", "--log-level", "warning"]) == 0
    told = re.findall(r"^/([01]): (\d+) clicks$", capsys.readouterr().out, re.MULTILINE)
    assert len(told) == 6, "of 250 clicks at most 100 are counted at once"
    assert sum(int(clicks) for _, clicks in told) == 250
    # what its beat publishes, when a minute has passed
    scheduler = Scheduler(tasks["app"])
    for entry in scheduler.schedule.values():
        entry.last_run_at -= timedelta(minutes=1)
    scheduler.tick()
    wait_for_messages(broker, 1)
    (document,) = Written(celery_document="/kwargs").documents.values()
    assert document == {"url": "/"}
    tasks["app"].close()


def test_a_task_is_written_by_its_id(shop):
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    result = shop.send_task("shop.sell", [{"n": 1}], {"at": moment}, expires=60)
    kwargs = {"at": moment.isoformat()}
    document = {"task": "shop.sell", "id": result.id, "args": [{"n": 1}], "kwargs": kwargs}
    assert Written().documents == {result.id: document}


def test_what_has_expired_or_is_for_later_or_no_json(shop, broker):
    shop.send_task("shop.sell", expires=datetime.now(UTC) - timedelta(minutes=1))
    shop.send_task("shop.sell", countdown=3600)
    shop.send_task("shop.sell", serializer="pickle")
    shop.send_task("shop.sell", link=shop.signature("shop.thank"))
    kept = shop.send_task("shop.sell", compression="bzip2")
    assert set(Written(breaker_window=0).documents) == {kept.id}
    assert sorted(letters(broker)) == ["eta-in-future", "unsupported-canvas", "unsupported-serializer"]


def test_the_file_is_right(capsys):
    file = Path(__file__).parents[2] / "docs/examples/celery.toml"
    assert main(["--config", str(file), "--check"]) == 0
    assert json.dumps(capsys.readouterr().out).count("clicks")
