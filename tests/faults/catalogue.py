"""What is tried: each row is a script of one trial, from the first message to the end of the fault."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from signal import SIGCONT
from typing import TYPE_CHECKING

import psutil

from tests.elasticsearch_proxy import UNKNOWN
from tests.faults import faults
from tests.faults.points import POINTS
from tests.faults.trial import Setting
from tests.faults.watch import tree
from tests.servers.base import wait_for
from tests.servers.toxiproxy import DOWN, UP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.account import Account
    from tests.faults.faults import Fault
    from tests.faults.trial import Trial

    Play = Callable[[Trial], None]

ALL = tuple(
    Setting(broker, kind, amqp)
    for broker in ("4.0", "3.10")
    for kind in ("quorum", "classic")
    for amqp in ("batched", "standard")
)
#: Every broker, type of queue and input, in two settings.
CORNERS = (Setting("4.0", "quorum", "batched"), Setting("3.10", "classic", "standard"))
ONE = CORNERS[:1]
#: Where nothing is lost with it, half of the messages come while the fault is on.
MESSAGES = 400
#: A broker takes its time to notice a death and hand out again; more deaths than this are two trials.
LIVES = 4
#: The breaker stops a route of which most is refused, and that is not what is tried here.
PATIENT = ("--breaker-window", "0")
LARGE_GROUPS = ("--size", "300", "--age", "60s", "--prefetch", "200")
FLOOD_STAGE = "read_only_allow_delete"


@dataclass(frozen=True, slots=True)
class Row:
    """``recorded``: a recorder stands before Elasticsearch. ``quick``: where it is tried each time.
    ``long``: it takes more than minutes.

    ``deaths``: kills that have to have happened, ``dead``: dead letters that there have to be; -1: some.
    """

    name: str
    play: Play
    settings: Sequence[Setting] = ALL
    quick: Sequence[Setting] = ()
    recorded: bool = True
    long: bool = False
    deaths: int = 0
    dead: int = 0

    def check(self, account: Account) -> None:
        """Raise ``AssertionError`` if the fault was not what it should be, or too much was refused."""
        assert account.kills >= self.deaths, account
        assert self.dead < 0 < account.dead_lettered or account.dead_lettered == self.dead, account


def kills(point: str) -> Play:
    """Lives that end at a point, one after the other."""

    def play(trial: Trial) -> None:
        trial.publish(MESSAGES // 2)
        trial.start(points=[f"{point}:{trial.chance.randint(1, 3)}" for _ in range(LIVES - 1)])
        trial.service.wait_event("life_ended", LIVES - 1)
        trial.note_healed()

    return play


def during(fault: Callable[[], Fault], seconds: float, *flags: str, pace: int = 20) -> Play:
    """A fault that lasts for some seconds, in the midst of work; each answer takes ``pace`` ms."""

    def play(trial: Trial) -> None:
        hurt = fault()
        trial.sink_leg.add("latency", DOWN, name="pace", latency=pace)
        trial.publish(MESSAGES // 2)
        trial.start(*flags)
        trial.wait_writes()
        with hurt.on(trial):
            if hurt.takes:
                trial.publish(MESSAGES // 2)
            faults.hold(trial, seconds)
        trial.note_healed()
        trial.publish(20)

    return play


def random_kills(trial: Trial) -> None:
    """SIGKILL for the tree of two processes at any time, and for one of its processes."""
    trial.publish(MESSAGES)
    for kill in (faults.KillService(), faults.KillChild(), faults.KillService()):
        trial.start("--processes", "2") if not trial.services or trial.service.process.poll() else None
        trial.service.wait_event("route_runs")
        faults.hold(trial, trial.chance.uniform(0, 0.5))
        kill.start(trial)
    trial.note_healed()
    trial.start("--processes", "2")


def open_groups(trial: Trial) -> None:
    """Groups are written and acked while older messages, of other groups, are held; then SIGKILL."""
    flags = ("--correlate", "header:key", "--age", "60s", "--workers", "1", "--prefetch", "200")
    trial.publish(100, key=lambda number: "rare" if number % 20 == 0 else f"k{number // 20}")
    trial.start(*flags, "--size", "19", module=trial.module)
    trial.service.wait_event("batch", 5)
    wait_for(lambda: unacked(trial) <= 5, "the acks")
    trial.kill()
    trial.note_healed()
    trial.start(*flags, "--size", "5")


def replaced_links(trial: Trial) -> None:
    """Every connection is closed with requests under way; their verdicts come; then SIGKILL."""
    assert trial.recorder
    trial.publish(MESSAGES)
    trial.start(module=trial.module)
    trial.wait_writes(3)
    trial.recorder.slow = 2.0
    sent = trial.recorder.attempted.total()
    wait_for(lambda: trial.recorder.attempted.total() >= sent + 40, "requests under way")
    trial.broker.close_all_connections()
    trial.service.wait_event("link_lost", 2)
    trial.service.wait_metric("aggregator_workers", lambda number: number == 2, state="consuming")
    trial.wait_writes()
    faults.hold(trial, 0.3)
    trial.kill()
    trial.recorder.slow = 0.0
    trial.note_healed()
    trial.start()


def on_receipt(trial: Trial) -> None:
    """SIGKILL with a group that is not complete."""
    trial.publish(90)
    trial.start("--age", "60s", module=trial.module)
    trial.wait_writes(4)
    trial.service.wait_metric("aggregator_received_total", lambda received: received >= 90)
    faults.hold(trial, 0.3)
    trial.kill()
    trial.start()


def unacked(trial: Trial) -> int:
    """Ask the broker."""
    counts = trial.counts()
    return counts.unacked if counts else 2**31


def stopped(*hurts: Callable[[], Fault], flags: Sequence[str] = ()) -> Play:
    """SIGTERM in some state: the end comes within the grace; then all is well again."""

    def play(trial: Trial) -> None:
        trial.publish(MESSAGES)
        trial.sink_leg.add("latency", DOWN, name="pace", latency=200)
        trial.start(*flags)
        trial.wait_writes()
        with ExitStack() as stack:
            for hurt in hurts:
                stack.enter_context(hurt().on(trial))
            faults.hold(trial, 1.0)
            trial.stop()
        trial.note_healed()
        trial.start()

    return play


def frozen_at(point: str, hurt: Callable[[], Fault], number: int = 2) -> Play:
    """The service is frozen at a point; something else breaks; the service goes on."""

    def play(trial: Trial) -> None:
        trial.publish(MESSAGES)
        trial.start(points=[f"{point}:{number}"], freeze=True)
        child = wait_frozen(trial)
        with hurt().on(trial):
            child.send_signal(SIGCONT)
            faults.hold(trial, 1.0)
        trial.note_healed()

    return play


def wait_frozen(trial: Trial) -> psutil.Process:
    """Wait until the life under way is stopped; return its process."""
    found: list[psutil.Process] = []

    def frozen() -> bool:
        found[:] = tree(trial.service.process.pid)[-1:]
        return any(process.status() == psutil.STATUS_STOPPED for process in found)

    wait_for(frozen, "the point to be come to", detail=trial.service.last_words)
    return found[0]


def dead_queue_full(trial: Trial) -> None:
    """What is refused has no place; its original is not acked, and goes there once there is one."""
    dead = f"{trial.queue}.dead"
    pattern = f"^{trial.queue}\\.dead$"
    trial.broker.policy(trial.name, pattern, {"max-length": 1, "overflow": "reject-publish"})
    try:
        trial.publish(MESSAGES // 2)
        with faults.Mixed().on(trial):
            trial.start(*PATIENT)
            trial.wait_writes()
            wait_for(lambda: trial.broker.counts(dead).ready == 1, "a full queue of dead letters")
            faults.hold(trial, 2.0)
    finally:
        trial.broker.ctl("clear_policy", trial.name)
    trial.note_healed()


def poison(trial: Trial) -> None:
    """Bodies that cannot be documents, among those that can."""
    bodies = [
        b"",
        b"{",
        b'{"number": NaN}',
        b"[" * 200_000,
        b'{"text": "\\ud800"}',
        b'{"number": ' + b"9" * 5_000 + b"}",
        b"\xff\xfe",
        b'{"number": 1}{"number": 2}',
    ]
    trial.publish(100)
    trial.publish_bodies(bodies)
    trial.publish(100)
    trial.start(*PATIENT)


def oversized(trial: Trial) -> None:
    """413 for requests, one document that is too large by itself, and a SIGKILL on the way."""
    assert trial.recorder
    trial.recorder.most_bytes = 1_000
    trial.publish(60)
    trial.publish_bodies([b'{"text": "' + b"x" * 2_000 + b'"}'])
    trial.publish(60)
    trial.start(*PATIENT)
    trial.wait_writes()
    trial.kill()
    trial.start(*PATIENT)


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


def freeze_both() -> Fault:
    """SIGSTOP for the broker and for Elasticsearch."""
    return faults.Together(faults.freeze_broker(), faults.freeze_elasticsearch())


KILLS = [
    *(
        Row(
            f"kill -9: {point}",
            kills(point),
            quick=CORNERS,
            recorded=point != "mid-request",
            deaths=LIVES - 1,
        )
        for point in POINTS
    ),
    Row("kill -9: at random, two processes", random_kills, quick=ONE),
    Row("kill -9: groups open while others are acked", open_groups, quick=CORNERS),
    Row("kill -9: incomplete group", on_receipt, quick=ONE),
    Row("kill -9: after verdicts for lost links", replaced_links, quick=CORNERS),
]
STOPS = [
    *(
        Row(f"SIGTERM: {state}", stopped(*hurts), quick=ONE if state.startswith("both") else ())
        for state, hurts in STATES.items()
    ),
    Row("SIGTERM: incomplete group", stopped(flags=LARGE_GROUPS)),
]
SERVERS = [
    Row("broker: restart", during(faults.stop_broker, 1.0), CORNERS, recorded=False),
    Row("broker: kill -9", during(faults.kill_broker, 1.0), CORNERS, recorded=False),
    Row("broker: frozen 60 s", during(faults.freeze_broker, 60.0), CORNERS, recorded=False),
    Row("broker: frozen 6 s", during(faults.freeze_broker, 6.0), CORNERS, recorded=False),
    Row("broker: away 60 s", during(faults.kill_broker, 60.0), CORNERS, recorded=False),
    Row("broker: all connections closed", during(faults.CloseConnections, 0.5), quick=CORNERS),
    Row("broker: channels closed by 406", during(faults.ConsumerTimeout, 4.0, pace=2_500), CORNERS),
    Row("broker: memory alarm", during(faults.MemoryAlarm, 3.0), CORNERS),
    Row("broker: disk alarm", during(faults.DiskAlarm, 3.0), CORNERS),
    Row("Elasticsearch: kill -9", during(faults.kill_elasticsearch, 1.0), CORNERS, recorded=False),
    Row("Elasticsearch: restart", during(faults.stop_elasticsearch, 1.0), ONE, recorded=False),
    Row("Elasticsearch: frozen 6 s", during(faults.freeze_elasticsearch, 6.0), CORNERS, recorded=False),
    Row("Elasticsearch: frozen 60 s", during(faults.freeze_elasticsearch, 60.0), CORNERS, recorded=False),
    Row("Elasticsearch: away 60 s", during(faults.kill_elasticsearch, 60.0), CORNERS, recorded=False),
    Row("Elasticsearch: read-only index", during(partial(faults.Block, "write"), 2.0), CORNERS, ONE),
    Row("Elasticsearch: flood stage", during(partial(faults.Block, FLOOD_STAGE), 2.0), CORNERS, ONE),
    Row("both frozen 6 s", during(freeze_both, 6.0), ONE, recorded=False),
    Row("service frozen 10 s", during(faults.FreezeService, 10.0), CORNERS),
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
    Row("answers: 201, 429 and 400", during(faults.Mixed, 1.0, *PATIENT), CORNERS, ONE, dead=-1),
    Row("answers: slow", during(partial(faults.Slow, 1.0), 4.0), CORNERS),
]  # fmt: skip
MESSAGES_ = [
    Row("dead-letter queue full", dead_queue_full, CORNERS, ONE, dead=-1),
    Row("bodies that are no documents", poison, CORNERS, ONE, dead=-1),
    Row("413, and an oversized document", oversized, CORNERS, ONE, dead=1),
]
LINKS = [
    Row(
        f"all connections closed: {point}",
        frozen_at(point, faults.CloseConnections),
        quick=CORNERS if point == "after-reply" else (),
    )
    for point in POINTS
]  # fmt: skip
ROWS = [*KILLS, *STOPS, *SERVERS, *NETWORKS, *ANSWERS, *MESSAGES_, *LINKS]

#: Builds that break the promise, and the row that shows it.
BROKEN: dict[str, Play] = {
    "tests.faults.broken_ack_on_receipt": on_receipt,
    "tests.faults.broken_multiple_ack": open_groups,
    "tests.faults.broken_stale_epoch": replaced_links,
}
