"""Who is compared, and how each is started: the peers beside this service in three flavours.

Every consumer finds in its environment where to read and write, and how: ``BENCH_BROKER``,
``BENCH_QUEUE``, ``BENCH_SINK``, ``BENCH_INDEX``, ``BENCH_SIZE`` (documents in a request) and
``BENCH_AGE_MS`` (a request goes at the latest so long after its first message). It runs until SIGTERM.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.targets import INDEX
from tests.servers.base import Unavailable
from tests.servers.elastic import find_java

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT: Final = Path(__file__).parent.parent
PEERS: Final = Path(__file__).parent / "peers"
OURS: Final = "ours"

_WARM, _WARM_JVM = 10_000, 100_000


@dataclass(frozen=True, slots=True)
class Peer:
    """One consumer, or one way of starting it.

    ``build``: what :mod:`benchmarks.build` makes for it; None if nothing. ``ids``: whether it sends each
    document's ``id`` as ``_id``. ``warm``: messages before the counted ones. ``timed``: it can flush by
    time, and acks what is written. ``tasks``: its messages are Celery's, each with the document as its
    argument. ``number``: where the document's number stands in what it writes.
    """

    name: str
    title: str
    command: Callable[[Settings], list[str]]
    folder: Path
    build: str | None = None
    ids: bool = True
    warm: int = _WARM
    timed: bool = True
    tasks: bool = False
    number: str = "number"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one run. ``broker`` ends in ``/%2F``; ``built``: the folder of what was built."""

    broker: str
    queue: str
    sink: str
    size: int
    age_ms: int
    built: Path

    def environment(self) -> dict[str, str]:
        """Return what a consumer finds in its environment."""
        return {
            "BENCH_BROKER": self.broker,
            "BENCH_QUEUE": self.queue,
            "BENCH_SINK": self.sink,
            "BENCH_INDEX": INDEX,
            "BENCH_SIZE": str(self.size),
            "BENCH_AGE_MS": str(self.age_ms),
        }


def ours(*flags: str) -> Callable[[Settings], list[str]]:
    """Start this service with one connection."""

    def command(settings: Settings) -> list[str]:
        return [
            sys.executable, "-m", "aggregator.consume",
            "--broker", settings.broker,
            "--queue", settings.queue,
            "--sink", f"elasticsearch+{settings.sink}/{INDEX}",
            "--size", str(settings.size),
            "--age", f"{settings.age_ms}ms",
            "--workers", "1",
            "--log-format", "json",
            *flags,
        ]  # fmt: skip

    return command


def built(name: str, *flags: str) -> Callable[[Settings], list[str]]:
    """Start a program that was built."""
    return lambda settings: [str(settings.built / name), *flags]


def script(folder: str) -> Callable[[Settings], list[str]]:
    """Start a script with the service's own interpreter and libraries."""
    return lambda _: [sys.executable, str(PEERS / folder / "consume.py")]


def with_peers_python(*arguments: str) -> Callable[[Settings], list[str]]:
    """Start Python with the peers' own libraries."""
    return lambda settings: [str(settings.built / "python" / "bin" / "python"), *arguments]


def jvm(folder: str, *arguments: str) -> Callable[[Settings], list[str]]:
    """Start a Java program: of the collectors the one that costs least CPU, and a heap that is enough."""

    def command(_: Settings) -> list[str]:
        classes = PEERS / folder / "target"
        options = ["-XX:+UseParallelGC", "-Xms256m", "-Xmx512m"]
        return [java(), *options, "-cp", f"{classes}/classes:{classes}/lib/*", "bench.Main", *arguments]

    return command


def java() -> str:
    """Return the newest Java that there is."""
    try:
        return str(find_java())
    except Unavailable:
        return "java"


_ALL: Final = (
    Peer(OURS, "ours, everything on", ours("--id", "/id", "--metrics-port", "0"), ROOT),
    Peer(
        "ours-plain", "ours, no ids, JSON trusted", ours("--id", "none", "--trust-json"), ROOT, ids=False,
        note="ids are made at receipt, so that a lost answer duplicates nothing",
    ),
    Peer(
        "ours-keyed", "ours, groups of 20 by key",
        ours(
            "--id", "/id", "--metrics-port", "0", "--correlate", "correlation_id", "--size", "20",
            "--request-items", "1000", "--prefetch", "5000",
        ),
        ROOT, note="50 groups are open at a time, and each goes with its 20th message",
    ),
    Peer("go", "Go, hand-written", built("go"), PEERS / "go", "go"),
    Peer("go-plain", "Go, hand-written, no ids", built("go", "-id=false"), PEERS / "go", "go", ids=False),
    Peer("kombu", "kombu `on_message` + elasticsearch-py", script("kombu"), PEERS / "kombu"),
    Peer("pika", "pika script", script("pika"), PEERS / "pika"),
    Peer(
        "aio-pika", "aio-pika + aiohttp", with_peers_python("consume.py"), PEERS / "aio_pika", "python",
    ),
    Peer(
        "celery-batches", "celery-batches",
        with_peers_python(
            "-m", "celery", "-A", "tasks", "worker", "--pool", "solo", "--concurrency", "1",
            "--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat",
        ),
        PEERS / "celery_batches", "python", tasks=True,
        note="its messages are Celery's tasks with the same documents",
    ),
    Peer(
        "camel-http", "Camel, http", jvm("camel", "http"), PEERS / "camel", "camel", warm=_WARM_JVM,
        timed=False,
        note="Camel's aggregator acks what it has gathered, before it is written: no latency is told",
    ),
    Peer(
        "camel-es", "Camel, elasticsearch", jvm("camel", "es"), PEERS / "camel", "camel", warm=_WARM_JVM,
        timed=False,
    ),
    Peer("spring", "Spring AMQP", jvm("spring"), PEERS / "spring", "spring", warm=_WARM_JVM),
    Peer(
        "telegraf", "Telegraf", built("telegraf", "telegraf.conf"), PEERS / "telegraf", "telegraf",
        ids=False, number="task.number", note="it knows no ids but a hash of its own",
    ),
)  # fmt: skip
CATALOGUE: Final[Mapping[str, Peer]] = {peer.name: peer for peer in _ALL}
QUICK: Final = (OURS, "go", "kombu")
