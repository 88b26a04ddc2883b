"""The consumer is killed at random moments: nothing is lost, nothing stands twice in the index."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from producers import load
from tests.service import ROOT, taken

pytestmark = pytest.mark.integration

MESSAGES = 20_000
KILLS = 10
SEED = random.randrange(10**6)


@pytest.mark.parametrize(
    ("rabbitmq", "kind"), [("rabbitmq", "classic"), ("rabbitmq4", "quorum")], indirect=["rabbitmq"]
)
def test_ten_kills(stage, kind):
    arguments = ["--count", str(MESSAGES), "--queue-type", kind, "--seed", "7"]
    assert load.main(["--broker", stage.rabbitmq.url, "--queue", stage.queue, *arguments]) == 0
    chance = random.Random(SEED)
    flags = ("--size", "100", "--prefetch", "100", "--age", "1s")
    for _ in range(KILLS):
        running = stage.start(*flags)
        # before the first flush, while requests are under way, between a reply and its ack
        running.wait_event("route_runs")
        if batches := chance.randrange(0, 12):
            running.wait_event("batch", batches)
        for _ in range(chance.randrange(0, 20_000)):
            pass
        running.kill()
    running = stage.start(*flags, "--until-empty")
    assert running.wait() == 0
    stage.wait_empty()
    found = stage.numbers()
    assert set(range(MESSAGES)) - found.keys() == set(), f"lost, with seed {SEED}"
    assert found == Counter(range(MESSAGES)), f"duplicates, with seed {SEED}"
    assert not taken(stage.rabbitmq.url, f"{stage.queue}.dead")


#: Put before the program: it acks each message as soon as it comes.
ACK_ON_RECEIPT = """
from consumers.worker import Worker

take = Worker._take

def _take(self, deliveries):
    take(self, deliveries)
    for delivery in deliveries:
        self._link._channel.basic_ack(delivery.tag)
        self._link._window.settle([delivery.tag])

Worker._take = _take
"""


@pytest.mark.parametrize(("build", "lost"), [("", 0), (ACK_ON_RECEIPT, 50)], ids=["honest", "broken"])
def test_a_build_that_acks_on_receipt_is_found_out(stage, tmp_path, build, lost):
    """The accounts of these tests are able to show a loss."""
    (tmp_path / "sitecustomize.py").write_text(build)
    stage.publish(stage.numbered(range(150)))
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    running = stage.start("--size", "100", "--age", "60s", "--metrics-port", "0", environment=path)
    running.wait_event("batch")
    running.wait_metric("aggregator_received_total", lambda received: received == 150)
    stage.wait_counts("the last acks", lambda counts: counts.unacked == 50 - lost)
    running.kill()
    assert stage.start("--until-empty").wait() == 0
    assert len(set(range(150)) - stage.numbers().keys()) == lost
