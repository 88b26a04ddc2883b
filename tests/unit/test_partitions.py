"""What the broker hashes by, and what a partition is declared as."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aggregator.config import load
from aggregator.partitioning import hash_arguments
from consumers.partitions import partition

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("correlate", "arguments"),
    [
        ("header:user", {"hash-header": "user"}),
        ("routing_key", {}),
        ("correlation_id", {"hash-property": "correlation_id"}),
        ("property:message_id", {"hash-property": "message_id"}),
        ("type", None),
        ("property:type", None),
        ("/user/id", None),
        ("header:a + header:b", None),
        ("function:some:thing", None),
        (len, None),
        (("header:a", "header:b"), None),
        (None, None),
    ],
)
def test_what_the_exchange_hashes(correlate, arguments):
    assert hash_arguments(correlate) == arguments


def test_a_partition():
    flags = ("--broker", "amqp://h", "--queue", "events", "--correlate", "header:user", "--partitions", "4")
    route = load(flags).routes["default"]
    queues = [partition(route, number) for number in range(4)]
    assert [queue.name for queue in queues] == ["events.0", "events.1", "events.2", "events.3"]
    queue = queues[3]
    assert (queue.exchange.name, queue.exchange.type) == ("events", "x-consistent-hash")
    assert queue.exchange.arguments == {"hash-header": "user"}
    assert queue.routing_key == "1"  # the number of its buckets
    assert queue.queue_arguments == {"x-queue-type": "quorum", "x-single-active-consumer": True}
    assert len({queue.consumer_arguments["x-priority"] for queue in queues}) > 1


def test_the_page_s_example(tmp_path):
    example = re.search(r"```toml\n(.*?)```", (ROOT / "docs/partitions.md").read_text(), re.DOTALL)[1]
    (tmp_path / "partitions.toml").write_text(example)
    route = load(["--config", str(tmp_path / "partitions.toml")]).routes["default"]
    assert (route.partitions, route.workers, route.queue) == (12, 12, "events")
