"""What messages can be, and what becomes of those that are refused: scripts of trials."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import TYPE_CHECKING

from kombu import Exchange, Queue

from tests.faults import faults
from tests.faults.plays import MESSAGES, PATIENT
from tests.service import channel_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.plays import Play
    from tests.faults.trial import Trial

MEGABYTE = 2**20
#: What a bomb would be, inflated; what the service may have at most, though it is sent some.
INFLATED_MB, MEMORY_MB = 512, 160
BOMBS: dict[str, tuple[Callable[[], object], str]] = {
    "gzip": (lambda: zlib.compressobj(wbits=31), "application/x-gzip"),
    "deflate": (zlib.compressobj, "application/x-zlib"),
    "bzip2": (bz2.BZ2Compressor, "application/x-bz2"),
    "xz": (lzma.LZMACompressor, "application/x-lzma"),
}
KEYS = ("a", "b", "c", "d")
MEMBERS = 20
BY_SENTINEL = ("--correlate", "header:key", "--sentinel", "type=end", "--sentinel-grace", "300ms",
               "--closed-keys", "100", "--age", "2s", "--size", "200", "--prefetch", "200")  # fmt: skip
COUNTED = ("--sentinel-count", "members")


# ── what cannot be a document, or says nothing of itself ──


def bombs(trial: Trial) -> None:
    """Bodies that would inflate to half a gigabyte, among others that are compressed and small."""
    trial.publish(MESSAGES // 4)
    trial.start(*PATIENT)
    trial.wait_writes()
    for make, kind in BOMBS.values():
        trial.publish_bodies([_inflated(make())], headers={"compression": kind})
    small = [
        gzip.compress(b'{"number": %d}' % number) for number in range(trial.published, trial.published + 20)
    ]
    trial.publish_bodies(small, headers={"compression": "application/x-gzip"})
    trial.publish(MESSAGES // 4)
    trial.wait_for(lambda: trial.all_there, "all documents")
    if (most := trial.most_memory) > MEMORY_MB:
        trial.account.complaints.append(f"a bomb went off: {most} MB")


def _inflated(stream) -> bytes:
    white = b" " * MEGABYTE
    return b"".join(
        [stream.compress(b"{"), *(stream.compress(white) for _ in range(INFLATED_MB)), stream.flush()]
    )


def bare(trial: Trial) -> None:
    """Messages without any property or header: neither an id nor a type, and no key to belong by."""
    trial.nameless = True
    bodies = [b'{"number": %d}' % number for number in range(MESSAGES // 2)]
    trial.publish_bare(bodies[:100])
    trial.start()
    trial.wait_writes()
    trial.publish_bare(bodies[100:])


def held_again(trial: Trial) -> None:
    """Connections are closed while a group is held, not complete yet: what comes again takes its place."""
    trial.publish(90)
    # what one link gives back may go out over the other one before that is closed too: counted twice
    trial.start("--size", "100", "--age", "60s", "--prefetch", "200", "--isolate-at", "off")
    for _ in range(3):
        trial.wait_consumers()
        trial.service.wait_metric("aggregator_held_messages", lambda held: held == 90)
        lost = len(trial.service.events("link_lost"))
        trial.broker.close_all_connections()
        trial.service.wait_event("link_lost", lost + 2)
    trial.wait_consumers()
    trial.note_healed()
    trial.publish(10)
    trial.wait_for(lambda: trial.all_there, "all documents")
    if sizes := [line["messages"] for line in trial.service.events("batch") if line["messages"] != 100]:
        trial.account.complaints.append(f"batches of {sizes} instead of one of 100")


# ── places for what is refused ──


def dead_queue_deleted(trial: Trial) -> None:
    """The dead-letter queue is deleted while the service runs: it makes another before it acks."""
    trial.publish(MESSAGES // 2)
    with faults.Mixed().on(trial):
        trial.start(*PATIENT)
        trial.wait_for(lambda: trial.all_there, "all documents and dead letters")
        trial.keep_letters()
        trial.broker.delete_queues(f"{trial.queue}.dead")
        trial.publish(MESSAGES // 2)
        trial.wait_for(lambda: trial.all_there, "a place for the refused")
    trial.note_healed()


def dead_letters_unroutable(trial: Trial) -> None:
    """An exchange for dead letters leads nowhere: originals are not acked until it does."""
    dead, name = f"{trial.queue}.dead", f"{trial.queue}.refused"
    with channel_of(trial.broker.url) as channel:
        exchange = Exchange(name, "fanout", durable=True)(channel)
        exchange.declare()
        trial.later(lambda: trial.delete_exchange(name))
        trial.publish(MESSAGES // 2)
        with faults.Mixed().on(trial):
            trial.start(*PATIENT, "--dead-letter", f"exchange:{name}")
            trial.service.wait_event("dead_letters_refused")
            faults.hold(trial, 2.0)
            Queue(dead, exchange, durable=True)(channel).declare()
            trial.note_healed()
            trial.wait_for(lambda: trial.all_there, "all documents and dead letters")


# ── sentinels ──


def sentinels(send: Callable[[Trial], None], *flags: str) -> Play:
    """Members of some keys, and sentinels as they should not be; all connections are closed in between."""

    def play(trial: Trial) -> None:
        trial.start(*BY_SENTINEL, *flags)
        trial.wait_consumers()
        send(trial)
        trial.broker.close_all_connections()
        trial.service.wait_event("link_lost", 2)
        trial.note_healed()
        send(trial)
        trial.publish(len(KEYS), key=lambda number: f"after-{number}")

    return play


def _members(trial: Trial, count: int = MEMBERS) -> None:
    trial.publish(count * len(KEYS), key=lambda number: KEYS[number % len(KEYS)])


def _end(trial: Trial, *keys: str, members: int = MEMBERS) -> None:
    for key in keys or KEYS:
        trial.control(type="end", headers={"key": key, "members": members})


def sentinel_lost(trial: Trial) -> None:
    """Some keys never see theirs."""
    _members(trial)
    _end(trial, "a")


def sentinel_twice(trial: Trial) -> None:
    """Each comes twice, and once more when its group is long gone."""
    _members(trial)
    _end(trial)
    _end(trial)
    trial.wait_for(lambda: trial.all_there, "all documents")
    _end(trial)


def sentinel_early(trial: Trial) -> None:
    """It comes before its members, or amid them."""
    _end(trial)
    _members(trial, MEMBERS // 2)
    _members(trial, MEMBERS // 2)


def sentinel_late(trial: Trial) -> None:
    """It comes when its group has gone by age."""
    _members(trial)
    trial.wait_for(lambda: trial.all_there, "all documents")
    _end(trial)


def sentinel_alone(trial: Trial) -> None:
    """There are no members, or fewer than it counts."""
    _end(trial, "none")
    _end(trial, "a", members=2 * MEMBERS)
    _members(trial)
