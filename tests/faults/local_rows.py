"""What is tried without any server: the embedded queue, and the sinks on this machine."""

from __future__ import annotations

from tests.faults import local_plays as plays
from tests.faults.catalogue import Row
from tests.faults.local_trial import on
from tests.faults.plays import LIVES, kills

BOTH = ("sqlite", "jsonl")
SQLITE = BOTH[:1]
POINTS = {
    "before-flush": BOTH,
    "mid-transaction": SQLITE,
    "mid-line": BOTH[1:],
    "after-reply": BOTH,
    "in-settle": BOTH,
    "after-lease": BOTH,
    "mid-delete": BOTH,
    "after-delete": BOTH,
}
#: A file that is locked is waited for 30 s, unless told otherwise.
IMPATIENT = "?busy_timeout=1s"


def row(name, play, settings=BOTH, trial=None, **more):
    """Return a row that is played in a folder."""
    return Row(f"embedded: {name}", play, settings, on=trial or on(timeout="?timeout=1s"), **more)


ROWS = [
    *(row(f"kill -9: {point}", kills(point), sinks, deaths=LIVES - 1) for point, sinks in POINTS.items()),
    row("producers killed", plays.producers_killed, deaths=plays.KILLS),
    row("two services, one killed", plays.two_services, deaths=plays.KILLS),
    row("frozen beyond its lease", plays.frozen_beyond_lease, trial=on(options="?lease=1s")),
    row("queue's disk full", plays.disk_full, SQLITE, on(small="queue")),
    row("sink's disk full", plays.disk_full, trial=on(small="sink")),
    row("queue's disk full at the start", plays.disk_full_at_the_start, SQLITE, on(small="queue")),
    row("sink's disk full at the start", plays.disk_full_at_the_start, trial=on(small="sink")),
    row("SIGTERM: queue's disk full", plays.stopped_while_full, SQLITE, on(small="queue")),
    row("SIGTERM: sink's disk full", plays.stopped_while_full, trial=on(small="sink")),
    row("queue locked 5 s", plays.locked("queue", 5.0), SQLITE),
    row("queue locked 5 s, impatient", plays.locked("queue", 5.0), SQLITE, on(options=IMPATIENT)),
    row("sink locked 5 s", plays.locked("sink", 5.0), SQLITE),
    row("sink locked 5 s, patient", plays.locked("sink", 5.0), SQLITE, on()),
    row("SIGTERM: queue locked", plays.locked("queue", 1.0, stop=True), SQLITE),
    row("SIGTERM: sink locked", plays.locked("sink", 1.0, stop=True), SQLITE),
]  # fmt: skip
