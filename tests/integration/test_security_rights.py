"""Least rights: a user of RabbitMQ that may do what docs/security.md names, and what each lack looks like.

The service runs with the right on each name that it needs and on no other.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.service import channel_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.service import Stage

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
NOTHING, ANYTHING = "^$", ".*"


def documented(title: str) -> tuple[str, str, str]:
    """Return configure, write and read of a row of the page, for the queue ``tasks``."""
    (row,) = re.findall(rf"^\| {title} \|(.*)\|$", PAGE, re.MULTILINE)
    configure, write, read = (cell.strip().strip("`") for cell in row.split(" | "))
    return configure, write, read


@contextmanager
def user(stage: Stage, *rights: str) -> Iterator[str]:
    """Yield the broker's URL for a user with these rights; ``tasks`` stands for the test's queue."""
    name = f"u{uuid4().hex[:8]}"
    patterns = [right.replace("tasks", stage.queue.replace(".", r"\.")) for right in rights]
    stage.rabbitmq.ctl("add_user", name, "secret")
    stage.rabbitmq.ctl("set_permissions", name, *patterns)
    try:
        yield stage.rabbitmq.url.replace("guest:guest", f"{name}:secret")
    finally:
        stage.rabbitmq.ctl("delete_user", name)


def declare_dead(stage: Stage) -> None:
    with channel_of(stage.rabbitmq.url) as channel:
        channel.queue_declare(f"{stage.queue}.dead", durable=True, auto_delete=False)


def fill(stage: Stage) -> None:
    stage.publish(stage.numbered(range(40)))
    stage.publish(stage.numbered([40], body=b"{"))


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_queues_that_stand_already(stage, kind):
    stage.declare(kind)
    fill(stage)
    declare_dead(stage)
    with user(stage, *documented("both queues stand")) as broker:
        assert stage.start("--size", "20", "--until-empty", broker=broker).wait() == 0
    assert stage.numbers() == Counter(range(40))
    assert len(stage.dead()) == 1


def test_queues_that_are_to_be_declared(stage):
    with user(stage, *documented("it declares them")) as broker:
        running = stage.start("--size", "20", broker=broker)
        running.wait_event("queue_declared")
        running.wait_event("route_runs")
        fill(stage)
        stage.wait_written(40)
        running.wait_event("dead_letters_published")
        assert running.stop() == 0
    assert stage.numbers() == Counter(range(40))
    assert len(stage.dead()) == 1


def test_an_exchange_for_dead_letters(stage):
    exchange = f"{stage.queue}.dlx"
    stage.declare()
    fill(stage)
    declare_dead(stage)
    with channel_of(stage.rabbitmq.url) as channel:
        channel.exchange_declare(exchange, "fanout", durable=True, auto_delete=False)
        channel.queue_bind(f"{stage.queue}.dead", exchange)
    try:
        configure, write, read = documented("`--dead-letter exchange:refused`")
        with user(stage, configure, write.replace("refused", exchange.replace(".", r"\.")), read) as broker:
            flags = ("--size", "20", "--until-empty", "--dead-letter", f"exchange:{exchange}")
            assert stage.start(*flags, broker=broker).wait() == 0
    finally:
        with channel_of(stage.rabbitmq.url) as channel:
            channel.exchange_delete(exchange)
    assert len(stage.dead()) == 1


#: Rights, the event that tells, where in it, and what.
LACKS = {
    "read": (
        ("^$", "^amq\\.default$", "^$"),
        "link_lost",
        "problem",
        r"Basic\.\w+: \(403\).* access to queue .* refused for user '{user}'",
    ),
    "configure": (
        ("^$", "^amq\\.default$", "^tasks$"),
        "route_stopped",
        "reason",
        r"user '{user}' has not the right to configure queue '.*\.dead' in vhost '/'; its configure pattern",
    ),
    "vhost": ((), "route_stopped", "reason", r"user '{user}' has no rights in vhost '/'; give them"),
}


@pytest.mark.parametrize("lack", LACKS)
def test_a_right_that_is_missing_is_named(stage, lack):
    """Nothing is lost: the message waits until somebody has given the right."""
    rights, event, field, words = LACKS[lack]
    stage.publish(stage.numbered([1]))
    with user(stage, *(rights or (NOTHING,) * 3)) as broker:
        name = broker.partition("://")[2].partition(":")[0]
        if not rights:
            stage.rabbitmq.ctl("clear_permissions", name)
        if lack == "read":
            declare_dead(stage)
        running = stage.start("--metrics-port", "0", broker=broker)
        said = running.wait_event(event)[0][field]
        assert re.search(words.format(user=name), said)
        if event == "link_lost":  # it goes on trying
            status, problem = running.ready()
            assert (status, "no worker consumes" in problem) == (503, True)
            assert running.stop() == 0
        else:
            assert running.wait() == 1
        assert "secret" not in running.last_words()
    assert stage.counts().ready == 1


def test_no_right_to_write_a_dead_letter(stage):
    """The refused message stays unacked: it comes again once the right is there."""
    stage.publish([*stage.numbered([1], body=b"{"), *stage.numbered([2])])
    declare_dead(stage)
    with user(stage, NOTHING, NOTHING, "^tasks$") as broker:
        running = stage.start(broker=broker)
        (said, *_) = running.wait_event("dead_letters_unavailable")
        assert re.search(r"Basic\.publish: \(403\).* access to exchange 'amq.default'", said["error"])
        stage.wait_written(1)
        running.stop()
    assert stage.counts().ready == 1
