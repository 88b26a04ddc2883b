"""The main job: forty plain texts over five workers become forty documents, in even batches."""

from __future__ import annotations

from collections import Counter

import pytest

from producers import tasks
from tests.elasticsearch_proxy import proxy

pytestmark = pytest.mark.integration


def produce(stage, *flags):
    assert tasks.main(["--broker", stage.rabbitmq.url, "--queue", stage.queue, *flags]) == 0


@pytest.mark.parametrize("flags", [(), ("--identical",)], ids=["texts", "identical"])
def test_forty_texts_are_forty_documents_in_two_batches_of_twenty(stage, flags):
    produce(stage, *flags)
    with proxy(stage.elasticsearch.url) as seen:
        running = stage.start(
            "--size", "20", "--workers", "5", "--age", "20s", "--until-empty", sink=stage.sink(seen.url)
        )
        assert running.wait() == 0
    assert running.batches() == [("size", 20), ("size", 20)]
    assert [body.count(b"\n") // 2 for body in seen.bulk_bodies()] == [20, 20]
    bodies = tasks.bodies(40, identical=bool(flags))
    assert Counter(d["message"] for d in stage.documents()) == Counter(b.decode() for b in bodies)
    stage.wait_empty()
    assert "40 written" in running.output
    assert stage.index in running.output


def test_the_last_ones_go_by_age(stage):
    produce(stage, "--count", "39")
    running = stage.start("--size", "20", "--age", "500ms", "--metrics-port", "0")
    running.wait_event("batch", 2)
    assert sorted(running.batches()) == [("age", 19), ("size", 20)]  # a busy sink may answer the second first
    (last,) = running.events("batch", trigger="age")
    assert 0.5 <= last["age"] < 60
    running.wait_metric("aggregator_deliveries_total", lambda n: n == 39, verdict="written")
    assert running.metric("aggregator_request_items_count") == 2
    assert running.metric("aggregator_request_items_sum") == 39
    stage.wait_empty()
    assert running.stop() == 0
    assert len(stage.documents()) == 39


def test_one_message_is_written_while_the_service_waits_for_more(stage):
    stage.declare()
    running = stage.start("--size", "20", "--age", "300ms")
    running.wait_event("route_runs")
    produce(stage, "--count", "1")
    assert running.wait_event("batch")[0]["trigger"] == "age"
    stage.wait_empty()
    assert [d["message"] for d in stage.documents()] == ["Message 1 of 1"]


def test_an_empty_queue_ends_it_at_once_and_an_absent_one_is_made(stage):
    running = stage.start("--until-empty")
    assert running.wait() == 0
    assert running.batches() == []
    assert "no messages" in running.output
    counts = stage.counts()
    assert (counts.ready, counts.unacked, counts.consumers) == (0, 0, 0)


def test_ten_thousandths_of_an_item_are_not_lost_at_the_end(stage):
    """Until empty: what is held when the queue runs dry is flushed without waiting for its age."""
    produce(stage, "--count", "7")
    running = stage.start("--size", "1000", "--age", "60s", "--until-empty")
    assert running.wait() == 0
    assert running.batches() == [("shutdown", 7)]
    assert len(stage.documents()) == 7
