"""The consumer is killed at random moments: nothing is lost, nothing stands twice in the index."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from producers import load
from tests.service import taken

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
