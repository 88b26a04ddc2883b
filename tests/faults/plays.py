"""The scripts of trials: from the first message to the end of the fault, and a service that goes on."""

from __future__ import annotations

from contextlib import ExitStack
from signal import SIGCONT
from typing import TYPE_CHECKING

import psutil

from tests.faults import faults
from tests.faults.watch import tree
from tests.servers.base import wait_for
from tests.servers.toxiproxy import DOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.faults import Fault
    from tests.faults.trial import Trial

    Play = Callable[[Trial], None]

#: Where nothing is lost with it, half of the messages come while the fault is on.
MESSAGES = 400
#: A broker takes its time to notice a death and hand out again; more deaths than this are two trials.
LIVES = 4
#: The breaker stops a route of which most is refused, and that is not what is tried here.
PATIENT = ("--breaker-window", "0")
#: What may come and go in a process that does nothing.
GROWTH_MB, GROWTH_DESCRIPTORS = 4, 2
#: So often memory is looked at while the sink stands still; for the first tenth it may settle.
COURSE = 10


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
    trial.start("--prefetch", "80", module=trial.module)
    trial.wait_writes()
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


def stands_still(hurt: Callable[[], Fault], seconds: float) -> Play:
    """The sink takes nothing, and the queue is never empty: what the service uses stays as it is.

    A request has two megabytes: one that is not let go of would show.
    """

    def play(trial: Trial) -> None:
        flags = ("--size", "2000", "--prefetch", "2000", "--max-held", "4MB")
        trial.publish(2_000)
        trial.start(*flags)
        trial.wait_writes()
        with hurt().on(trial):
            trial.publish_bodies([b'{"text": "%b"}' % (b"x" * 1_000) for _ in range(12_000)])
            course, least = [], []
            for _ in range(COURSE):
                begin = trial.looks
                faults.hold(trial, seconds / COURSE)
                course.append(trial.use())
                # while a request is under way its body is there: what stays is there at every moment
                least.append(trial.least_memory(begin))
            trial.account.course = [use.memory for use in course]
            # what the broker counts: as long as the service waits, it may have given everything back
            held = unacked(trial)
        trial.note_healed()
        grown, opened = least[-1] - least[1], course[-1].descriptors - course[1].descriptors
        if grown > GROWTH_MB or opened > GROWTH_DESCRIPTORS or held > 2 * 2_000:
            trial.account.complaints.append(
                f"grown by {grown:.1f} MB and {opened} descriptors, {held} unacked"
            )

    return play


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
