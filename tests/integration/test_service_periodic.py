"""Messages by the clock on RabbitMQ: each moment once, whoever is killed, and what was missed."""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime
from pathlib import Path

import pytest

from aggregator.config import load
from aggregator.periodic import Periodic
from aggregator.quiet_hours import QuietHours
from aggregator.testing.clock import VirtualClock
from consumers.connecting import Broker
from consumers.periodic import PeriodicSender
from tests.servers.base import wait_for
from tests.service import channel_of, taken

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FILE = """
broker = "{url}"
control_namespace = "{name}"
log_format = "json"

[periodic.tick]
interval = "1s"
exchange = "amq.topic"
routing_key = "ticks.second"

[routes.ticks]
queue = "{name}"
sink = "sqlite:///ticks.db"
size = 1

[queues."{name}"]
type = "quorum"
bindings = [{{ exchange = "amq.topic", pattern = "ticks.*" }}]
"""


@pytest.fixture
def queue(rabbitmq4, tmp_path):
    name = f"periodic-{tmp_path.name}"
    with channel_of(rabbitmq4.url) as channel:
        channel.queue_declare(name, durable=True, auto_delete=False)
    yield name
    rabbitmq4.delete_queues(name, f"{name}.dead", f"{name}.periodic.tick")


@pytest.fixture
def sender(rabbitmq4, queue):
    """Return a function that starts a sender of a minute's interval; all end with the test."""
    started = []

    def start(clock, **said):
        table = Periodic.model_validate({"name": "tick", "interval": "1m", "queue": queue, **said})
        made = PeriodicSender(Broker(rabbitmq4.url, batched=False), queue, {"tick": table}, clock=clock)
        made.start()
        started.append(made)
        return made

    yield start
    for each in started:
        each.stop()


def ids(rabbitmq4, queue, count):
    """Wait for so many messages; return their ids."""
    found = []

    def all_there():
        found.extend(message.properties["message_id"] for message in taken(rabbitmq4.url, queue))
        return len(found) >= count

    wait_for(all_there, f"{count} messages in {queue}", timeout=30)
    return found


def has_token(sender):
    return lambda: sender._tokens and sender._tokens["tick"].last > 0


def test_one_of_two_publishes_and_the_other_when_that_has_gone(rabbitmq4, queue, sender):
    clock = VirtualClock(time=1_700_000_000.0)
    first = sender(clock)
    wait_for(has_token(first), "its token")
    second = sender(clock)
    wait_for(lambda: not second.problem, "the second to be ready")
    clock.advance(60)
    assert ids(rabbitmq4, queue, 1) == ["tick@2023-11-14T22:14:00Z"]
    assert not second._tokens
    first.stop()
    clock.advance(60)
    assert ids(rabbitmq4, queue, 1) == ["tick@2023-11-14T22:15:00Z"]
    wait_for(has_token(second), "its token")
    counts = rabbitmq4.counts(f"{queue}.periodic.tick")
    assert counts.ready + counts.unacked == 1


def test_the_last_moment_that_was_missed_is_made_up_for(rabbitmq4, queue, sender):
    clock = VirtualClock(time=1_700_000_000.0)
    first = sender(clock)
    wait_for(has_token(first), "its token")
    first.stop()
    clock.advance(600)
    second = sender(clock)
    assert ids(rabbitmq4, queue, 1) == ["tick@2023-11-14T22:23:00Z"]
    second.stop()
    clock.advance(7200)
    third = sender(clock, catch_up="1m")
    wait_for(has_token(third), "its token")
    clock.advance(60)
    assert ids(rabbitmq4, queue, 1) == ["tick@2023-11-15T00:24:00Z"]


def test_a_clock_that_was_ahead_does_not_stop_it(rabbitmq4, queue, sender):
    clock = VirtualClock(time=1_700_000_000.0)
    first = sender(clock)
    wait_for(has_token(first), "its token")
    clock.step(86_400 * 400)
    assert ids(rabbitmq4, queue, 1) == ["tick@2024-12-18T22:13:00Z"]
    clock.step(-86_400 * 400)
    wait_for(lambda: first._tokens["tick"].last <= clock.time(), "a token of now")
    clock.advance(60)
    assert ids(rabbitmq4, queue, 1) == ["tick@2023-11-14T22:14:00Z"]
    second = sender(clock)
    wait_for(lambda: not second.problem, "the second to be ready")
    first.stop()
    wait_for(lambda: has_token(second)() and second._tokens["tick"].last <= clock.time(), "a token of now")
    clock.advance(60)
    assert ids(rabbitmq4, queue, 1) == ["tick@2023-11-14T22:15:00Z"]


def test_an_exchange_that_is_not_there_is_one_tables_fault(rabbitmq4, queue):
    clock = VirtualClock(time=1_700_000_000.0)
    tables = {
        "other": Periodic.model_validate({"name": "other", "interval": "1m", "exchange": "nobody"}),
        "tick": Periodic.model_validate({"name": "tick", "interval": "1m", "queue": queue}),
    }
    sending = PeriodicSender(Broker(rabbitmq4.url, batched=False), queue, tables, clock=clock)
    try:
        with sending:
            wait_for(
                lambda: len(sending._tokens) == 2 and all(t.last for t in sending._tokens.values()), "tokens"
            )
            clock.advance(60)
            assert ids(rabbitmq4, queue, 1) == ["tick@2023-11-14T22:14:00Z"]
            wait_for(lambda: any(note.startswith("periodic.other: ") for note in sending.notes()), "a note")
            assert not sending._failures
    finally:
        rabbitmq4.delete_queues(f"{queue}.periodic.other")


def test_a_queue_that_is_not_there_is_told_of_until_it_is(rabbitmq4, queue, sender):
    clock = VirtualClock(time=1_700_000_000.0)
    sending = sender(clock, queue=f"{queue}.dead")
    wait_for(has_token(sending), "its token")
    clock.advance(60)
    wait_for(lambda: "periodic.tick: unroutable" in sending.notes(), "a note")
    with channel_of(rabbitmq4.url) as channel:
        channel.queue_declare(f"{queue}.dead", durable=True, auto_delete=False)
    clock.advance(10)
    assert ids(rabbitmq4, f"{queue}.dead", 1) == ["tick@2023-11-14T22:14:00Z"]
    wait_for(lambda: not sending.notes(), "no note")


def test_a_broker_that_was_away(rabbitmq4, queue, sender):
    clock = VirtualClock(time=1_700_000_000.0)
    sending = sender(clock)
    wait_for(has_token(sending), "its token")
    rabbitmq4.close_all_connections()
    wait_for(lambda: sending._failures, "the loss to be noticed")
    clock.advance(60)
    assert set(ids(rabbitmq4, queue, 1)) == {"tick@2023-11-14T22:14:00Z"}


def test_the_example(rabbitmq4, service, tmp_path):
    text = (ROOT / "docs/examples/periodic.toml").read_text()
    assert 'interval = "15m"' in text
    (tmp_path / "a.toml").write_text(text.replace('interval = "15m"', 'interval = "1s"'))
    (tmp_path / "data").mkdir()
    route = load(["--config", str(tmp_path / "a.toml")]).routes["orders"]
    hours = QuietHours(route.quiet, route.time_zone)
    try:
        before = hours.until(time.time())
        running = service("--config", str(tmp_path / "a.toml"), "--broker", rabbitmq4.url, folder=tmp_path)
        running.wait_event("batch", route="reports")
        rests = bool(running.events("route_pauses", route="orders"))
        assert rests is bool(before) or rests is bool(hours.until(time.time()))
        assert running.stop() == 0
        with sqlite3.connect(tmp_path / "data/reports.db") as store:
            (table,) = next(store.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
            assert [*store.execute(f"SELECT id FROM {table} WHERE id LIKE 'report@20%Z'")]
    finally:
        names = ("orders", "reports", "orders.dead", "reports.dead")
        tokens = (f"aggregator.periodic.{name}" for name in ("report", "end-of-day"))
        rabbitmq4.delete_queues(*names, *tokens)


def test_each_second_once_though_its_publisher_is_killed(rabbitmq4, queue, service, tmp_path):
    rabbitmq4.delete_queues(queue)
    (tmp_path / "a.toml").write_text(FILE.format(url=rabbitmq4.url, name=queue))
    running = [service("--config", str(tmp_path / "a.toml"), folder=tmp_path) for _ in range(2)]
    for each in running:
        each.wait_event("periodic_ready")

    def published(each):
        return [event["message_id"] for event in each.events("periodic_published")]

    wait_for(lambda: any(len(published(each)) > 2 for each in running), "three seconds")
    other, leader = sorted(running, key=lambda each: len(published(each)))
    assert not published(other)
    leader.kill()
    wait_for(lambda: len(published(other)) > 2, "three seconds of the other", detail=other.last_words)
    assert other.stop() == 0
    told = [*published(leader), *published(other)]
    assert len(told) - len(set(told)) <= 1  # what it had published when it was killed, and not told of
    moments = sorted(datetime.fromisoformat(name.partition("@")[2]).timestamp() for name in set(told))
    # of several that nobody was there for the last is made up for, and nobody was for less than a second
    assert moments[-1] - moments[0] + 1 - len(moments) <= 1
    with sqlite3.connect(tmp_path / "ticks.db") as store:
        (table,) = next(store.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
        written = [name for (name,) in store.execute(f"SELECT id FROM {table}")]
    assert sorted(written) == sorted(set(told))
