"""Counted groups over five workers, killed in between: each becomes one document, whole."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from producers import load
from tests.service import taken

pytestmark = pytest.mark.integration

GROUPS, MEMBERS, OPEN = 300, 20, 60
KILLS = 3
SEED = random.randrange(10**6)
FLAGS = (
    "--workers", "5", "--prefetch", "2000", "--correlate", "correlation_id", "--aggregate", "list",
    "--sentinel", "type=sentinel", "--sentinel-count", "count",
    "--size", "none", "--age", "none", "--idle", "8s",
)  # fmt: skip


@pytest.mark.parametrize(
    ("rabbitmq", "kind"), [("rabbitmq", "classic"), ("rabbitmq4", "quorum")], indirect=["rabbitmq"]
)
def test_each_group_is_one_whole_document(stage, kind):
    arguments = [
        "--count",
        str(GROUPS * MEMBERS),
        "--keys",
        str(GROUPS),
        "--open-keys",
        str(OPEN),
        "--sentinels",
    ]
    broker = ["--broker", stage.rabbitmq.url, "--queue", stage.queue, "--queue-type", kind]
    assert load.main([*broker, *arguments]) == 0
    chance = random.Random(SEED)
    for _ in range(KILLS):
        running = stage.start(*FLAGS)
        running.wait_event("batch", chance.randrange(1, GROUPS // (KILLS + 2)))
        running.kill()
    # until all that was unacked is there again the queue looks empty
    stage.wait_counts("what was unacked", lambda counts: counts.ready > 0 == counts.unacked)
    running = stage.start(*FLAGS, "--until-empty")
    assert running.wait(120) == 0
    found = {document["key"]: document["messages"] for document in stage.documents()}
    assert len(stage.documents()) == len(found) == GROUPS, f"split, with seed {SEED}"
    numbers = [member["number"] for members in found.values() for member in members]
    assert Counter(numbers) == Counter(range(GROUPS * MEMBERS)), f"with seed {SEED}"
    assert {len(members) for members in found.values()} == {MEMBERS}
    assert not taken(stage.rabbitmq.url, f"{stage.queue}.dead")
