"""What is tried on three nodes of RabbitMQ, with copies of the queue on each."""

from __future__ import annotations

from tests.faults import cluster_plays as plays
from tests.faults.catalogue import Row
from tests.faults.cluster_plays import each_in_turn, hurt_one, leads, serves
from tests.faults.cluster_trial import cluster_trial
from tests.faults.trial import Setting

NEW = Setting("4.0 cluster", "quorum", "batched")
OLD = Setting("3.10 cluster", "quorum", "standard")
BOTH = (NEW, OLD)


def row(name, play, settings=(NEW,), **more):
    """Return a row that is played on a cluster."""
    return Row(f"cluster: {name}", play, settings, on=cluster_trial, **more)


ROWS = [
    row("kill -9 of the queue's leader", hurt_one(leads, plays.kill), deaths=1),
    row("kill -9 of its node", hurt_one(serves, plays.kill, refused=True), BOTH, deaths=1, dead=-1),
    row("kill -9 of each node in turn", each_in_turn(plays.kill), deaths=3),
    row("restart of each node in turn", each_in_turn(plays.stop)),
    row("leader frozen", hurt_one(leads, plays.freeze), BOTH),
    row("its node frozen", hurt_one(serves, plays.freeze)),
    row("partition: the leader is alone", hurt_one(leads, plays.part)),
    row(
        "partition: its node is alone, and pauses", hurt_one(serves, plays.part, refused=True), BOTH, dead=-1,
    ),
    row("partition: its node is alone, silence", hurt_one(serves, plays.silence)),
    row("partition: its node is alone, and goes on", hurt_one(serves, plays.part_and_go_on)),
    row("two of three killed", plays.no_majority, deaths=2),
    row("node of the dead letters killed", plays.dead_letters_away, deaths=1, dead=-1),
]  # fmt: skip
