"""What is tried: each row plays one script, with one fault, in some settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING

from tests.elasticsearch_proxy import UNKNOWN
from tests.faults import access, faults, letters, plays, process
from tests.faults.plays import during, stands_still
from tests.faults.points import POINTS
from tests.faults.trial import Setting, trial
from tests.servers.toxiproxy import DOWN, UP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from tests.faults.account import Account
    from tests.faults.plays import Play

ALL = tuple(
    Setting(broker, kind, amqp)
    for broker in ("4.0", "3.10")
    for kind in ("quorum", "classic")
    for amqp in ("batched", "standard")
)
#: Every broker, type of queue and input, in two settings.
CORNERS = (Setting("4.0", "quorum", "batched"), Setting("3.10", "classic", "standard"))
ONE = CORNERS[:1]
QUORUM = (CORNERS[0], Setting("3.10", "quorum", "standard"))
LARGE_GROUPS = ("--size", "300", "--age", "60s", "--prefetch", "200")
BY_THE_CLOCK = ("--age", "off", "--interval", "1s")
FLOOD_STAGE = "read_only_allow_delete"


@dataclass(frozen=True, slots=True)
class Row:
    """``recorded``: a recorder stands before Elasticsearch. ``quick``: where it is tried each time.

    ``long``: it takes more than minutes. ``deaths``: kills that have to have happened, ``dead``: dead
    letters that there have to be; -1: some. ``on`` makes the trial that it is played on.
    """

    name: str
    play: Play
    settings: Sequence[Any] = ALL
    quick: Sequence[Any] = ()
    recorded: bool = True
    long: bool = False
    deaths: int = 0
    dead: int = 0
    on: Callable[..., AbstractContextManager[Any]] = trial

    def check(self, account: Account) -> None:
        """Raise ``AssertionError`` if the fault was not what it should be, or too much was refused."""
        assert account.kills >= self.deaths, account
        assert self.dead < 0 < account.dead_lettered or account.dead_lettered == self.dead, account


SINK, BROKER = "sink", "broker"
NETWORK = {
    "reset": lambda leg: faults.Toxic(leg, "reset_peer", timeout=0),
    "black hole": faults.black_hole,
    "half open (up)": lambda leg: faults.black_hole(leg, UP),
    "half open (down)": lambda leg: faults.black_hole(leg, DOWN),
    "latency 500 ms": lambda leg: faults.Toxic(leg, "latency", latency=500, jitter=200),
    "slices of a byte": lambda leg: faults.Toxic(leg, "slicer", average_size=1, size_variation=0, delay=10),
    "4 KB a second": lambda leg: faults.Toxic(leg, "bandwidth", rate=4),
    "cut after 3000 bytes": lambda leg: faults.Toxic(leg, "limit_data", bytes=3_000),
    "refused": faults.Shut,
}
#: One of each kind is tried each time; all of them by ``make faults``.
OFTEN = {
    ("reset", SINK),
    ("black hole", BROKER),
    ("cut after 3000 bytes", BROKER),
    ("slices of a byte", SINK),
    "short",
    "another order",
    "html",
    "cut json",
}
STATES = {
    "busy": (),
    "broker away": (faults.kill_broker,),
    "Elasticsearch away": (partial(faults.Shut, SINK),),
    "both away": (partial(faults.Shut, SINK), partial(faults.Shut, BROKER)),
    "broker frozen": (partial(faults.black_hole, BROKER),),
    "Elasticsearch frozen": (partial(faults.black_hole, SINK),),
    "both frozen": (partial(faults.black_hole, SINK), partial(faults.black_hole, BROKER)),
    "slow sink": (partial(faults.Slow, 2.0),),
}


def often(what: object) -> Sequence[Setting]:
    """Return where it is tried each time."""
    return ONE if what in OFTEN else ()


KILLS = [
    *(
        Row(
            f"kill -9: {point}",
            plays.kills(point),
            quick=CORNERS,
            recorded=point != "mid-request",
            deaths=plays.LIVES - 1,
        )
        for point in POINTS
    ),
    Row("kill -9: at random, two processes", plays.random_kills, CORNERS),
    Row("kill -9: groups open while others are acked", plays.open_groups, CORNERS, CORNERS),
    Row("kill -9: incomplete group", plays.on_receipt, CORNERS, ONE),
    Row("kill -9: after verdicts for lost links", plays.replaced_links, CORNERS, CORNERS),
    # classic queues count no deliveries: there nothing is found
    Row("a message that kills the process", process.crashes, QUORUM, recorded=False, dead=1),
]
STOPS = [
    *(
        Row(f"SIGTERM: {state}", plays.stopped(*hurts), CORNERS, ONE if state == "both away" else ())
        for state, hurts in STATES.items()
    ),
    Row("SIGTERM: incomplete group", plays.stopped(flags=LARGE_GROUPS), CORNERS),
    Row("SIGTERM: idle", process.stopped_idle, CORNERS),
    Row("SIGTERM twice", process.signalled_twice(SIGTERM), CORNERS, ONE),
    Row("SIGINT twice", process.signalled_twice(SIGINT), CORNERS),
    Row("SIGTERM twice: two processes", process.signalled_twice(SIGTERM, "--processes", "2"), CORNERS),
]
SERVERS = [
    Row("broker: restart", during(faults.stop_broker, 1.0), CORNERS, recorded=False),
    Row("broker: kill -9", during(faults.kill_broker, 1.0), CORNERS, recorded=False),
    Row("broker: frozen 60 s", during(faults.freeze_broker, 60.0), CORNERS, recorded=False),
    Row("broker: frozen 6 s", during(faults.freeze_broker, 6.0), CORNERS, recorded=False),
    Row("broker: away 60 s", during(faults.kill_broker, 60.0), CORNERS, recorded=False),
    Row("broker: all connections closed", during(faults.CloseConnections, 0.5), quick=CORNERS),
    Row("broker: channels closed by 406", during(faults.ConsumerTimeout, 4.0, pace=1_500), CORNERS),
    Row("broker: memory alarm", during(faults.MemoryAlarm, 3.0), CORNERS),
    Row("broker: disk alarm", during(faults.DiskAlarm, 3.0), CORNERS),
    Row("Elasticsearch: kill -9", during(faults.kill_elasticsearch, 1.0), CORNERS, recorded=False),
    Row("Elasticsearch: restart", during(faults.stop_elasticsearch, 1.0), ONE, recorded=False),
    Row("Elasticsearch: frozen 6 s", during(faults.freeze_elasticsearch, 6.0), CORNERS, recorded=False),
    Row("Elasticsearch: frozen 60 s", during(faults.freeze_elasticsearch, 60.0), CORNERS, recorded=False),
    Row("Elasticsearch: away 60 s", during(faults.kill_elasticsearch, 60.0), CORNERS, recorded=False),
    Row("Elasticsearch: read-only index", during(partial(faults.Block, "write"), 2.0), CORNERS, ONE),
    Row("Elasticsearch: flood stage", during(partial(faults.Block, FLOOD_STAGE), 2.0), CORNERS, ONE),
    *(
        Row(f"hot queue, Elasticsearch {name}", stands_still(make, seconds), ONE, recorded=False, long=long)
        for seconds, length, long in ((60.0, "1 min", False), (600.0, "10 min", True))
        for name, make in {
            f"silent for {length}": partial(faults.black_hole, SINK),
            f"refusing connections for {length}": partial(faults.Shut, SINK),
            f"gone for {length}": faults.kill_elasticsearch,
        }.items()
    ),
    Row("broker: queue deleted, made by its owner", access.queue_deleted(access.by_its_owner), CORNERS, ONE),
    Row("broker: queue deleted, made by the service", access.queue_deleted(access.by_the_service), CORNERS),
    *(Row(f"broker: {name}", access.revoked(name, 2.0), CORNERS) for name in access.REVOKED),
    Row("broker: certificate expires", access.certificate_expires(BROKER, "link_lost"), CORNERS),
    Row("Elasticsearch: certificate expires", access.certificate_expires(SINK, "sink_refuses"), CORNERS),
    Row("both frozen 6 s", during(faults.freeze_both, 6.0), ONE, recorded=False),
    Row("service frozen 10 s", during(faults.FreezeService, 10.0), CORNERS),
    Row("clock steps: groups by age", process.clock_steps(), CORNERS, ONE),
    Row("clock steps: groups by the wall clock", process.clock_steps(*BY_THE_CLOCK), CORNERS),
    Row("no file descriptors, connections lost", process.few_descriptors, CORNERS),
]  # fmt: skip
NETWORKS = [
    Row(f"network: {leg}: {name}", during(partial(make, leg), 3.0), CORNERS, often((name, leg)))
    for leg in (SINK, BROKER)
    for name, make in NETWORK.items()
]  # fmt: skip
ANSWERS = [
    *(
        Row(f"answers: {name}", during(partial(faults.Answers, name), 1.0), CORNERS, often(name))
        for name in UNKNOWN
    ),
    Row("answers: lost, all of them", during(partial(faults.Answers, "broken off", 1.0), 2.0), CORNERS, ONE),
    Row("answers: 201, 429 and 400", during(faults.Mixed, 1.0, *plays.PATIENT), CORNERS, ONE, dead=-1),
    Row("answers: slow", during(partial(faults.Slow, 1.0), 4.0), CORNERS),
]  # fmt: skip
MESSAGES_ = [
    Row("dead-letter queue full", plays.dead_queue_full, CORNERS, dead=-1),
    Row("dead-letter queue deleted", letters.dead_queue_deleted, CORNERS, dead=-1),
    Row("dead letters unroutable", letters.dead_letters_unroutable, CORNERS, dead=-1),
    Row("bodies that are no documents", plays.poison, CORNERS, ONE, dead=-1),
    Row("compression bombs", letters.bombs, CORNERS, dead=len(letters.BOMBS)),
    Row("no ids, no types, no headers", letters.bare, CORNERS),
    Row("413, and an oversized document", plays.oversized, CORNERS, ONE, dead=1),
]
LINKS = [
    Row("all connections closed: incomplete group", letters.held_again, CORNERS),
    *(
        Row(
            f"all connections closed: {point}",
            plays.frozen_at(point, faults.CloseConnections),
            CORNERS,
            quick=CORNERS if point == "after-reply" else (),
        )
        for point in POINTS
    ),
]  # fmt: skip
SENTINELS = [
    Row(f"sentinel: {name}{said}", letters.sentinels(send, *flags), CORNERS)
    for name, send in {
        "lost": letters.sentinel_lost,
        "twice": letters.sentinel_twice,
        "early": letters.sentinel_early,
        "late": letters.sentinel_late,
        "without members": letters.sentinel_alone,
    }.items()
    for said, flags in {"": (), ", counted": letters.COUNTED}.items()
]
ROWS = [*KILLS, *STOPS, *SERVERS, *NETWORKS, *ANSWERS, *MESSAGES_, *SENTINELS, *LINKS]

#: Builds that break the promise, and the row that shows it.
BROKEN: dict[str, Play] = {
    "tests.faults.broken_ack_on_receipt": plays.on_receipt,
    "tests.faults.broken_multiple_ack": plays.open_groups,
    "tests.faults.broken_stale_epoch": plays.replaced_links,
}
