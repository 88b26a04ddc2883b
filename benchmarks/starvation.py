"""A quiet route beside a flooded one: how much later its messages are written for it.

    python -m benchmarks.starvation                          # 20 s each: alone, and beside three floods
    python -m benchmarks.starvation --seconds 60 --flood 1000000

The quiet route gets 50 messages a second, each written as it comes (``size = 1``); what is told is the
time from just before its publishing to the call of its sink. The flooded one has a full queue that it
writes in thousands: to a sink that costs nothing, to one that takes a second for each request, and, for
comparison, in a process of its own, where it takes the processor but not Python's lock.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from benchmarks.process import Running
from consumers.publisher import Outgoing, Publisher
from tests.servers import Fleet
from tests.servers.base import wait_for
from tests.service import channel_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.sinks.function import BulkRequest
    from tests.servers import RabbitMQ

ROOT = Path(__file__).parents[1]
RATE = 50
QUIET, FLOODED = "starvation.quiet", "starvation.flooded"
#: Messages of the quiet route before those that are counted.
WARM = 50
SLOW_SECONDS = 1.0
FOLDER = "STARVATION_FOLDER"
ROUTES = {
    "quiet": f'queue = "{QUIET}"\nsize = 1\nsink = "function:benchmarks.starvation:note"\n',
    "quick": f'queue = "{FLOODED}"\nsize = 1000\nsink = "function:benchmarks.starvation:forget"\n',
    "slow": f'queue = "{FLOODED}"\nsize = 1000\nsink = "function:benchmarks.starvation:dawdle"\n',
}


class Case(NamedTuple):
    """What runs: the routes of each process."""

    name: str
    processes: Sequence[Sequence[str]]

    @property
    def flooded(self) -> bool:
        """Whether there is a flood."""
        return any("quiet" not in routes or len(routes) > 1 for routes in self.processes)


CASES = (
    Case("alone", [["quiet"]]),
    Case("beside a flood", [["quiet", "quick"]]),
    Case("beside a flood whose sink takes 1 s a request", [["quiet", "slow"]]),
    Case("beside a flood in another process", [["quiet"], ["quick"]]),
)


# ── sinks, called in the service ──


def note(batch: BulkRequest) -> None:
    """Write down how long each message took so far, in ms."""
    now = time.monotonic_ns()
    lines = [f"{(now - orjson.loads(item.document)['at']) / 1e6}\n" for item in batch]
    with Path(os.environ[FOLDER], "quiet").open("a", encoding="ascii") as file:
        file.writelines(lines)


def forget(_batch: BulkRequest) -> None:
    """Write nothing."""


def dawdle(_batch: BulkRequest) -> None:
    """Write nothing, slowly."""
    time.sleep(SLOW_SECONDS)


# ── the runs ──


def main() -> int:
    """Run all cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most, for each case")
    parser.add_argument("--flood", type=int, default=500_000, help="messages that wait when it begins")
    parser.add_argument("--broker", choices=("rabbitmq", "rabbitmq4"), default="rabbitmq4")
    parser.add_argument("--repeat", type=int, default=1, help="times that all cases are gone through")
    parser.add_argument("--only", type=int, choices=range(1, len(CASES) + 1), nargs="+", help="these cases")
    args = parser.parse_args()
    cases = [CASES[number - 1] for number in args.only or range(1, len(CASES) + 1)]
    print("| quiet route | messages | p50 ms | p99 ms | most ms | flood: messages/s |")
    print("|---|---|---|---|---|---|")
    fleet = Fleet(full_speed=True)
    try:
        rabbit = fleet.get(args.broker)
        for case in cases * args.repeat:
            print(run(rabbit, case, args.seconds, args.flood), flush=True)
    finally:
        fleet.close()
    return 0


def run(rabbit: RabbitMQ, case: Case, seconds: float, flood: int) -> str:
    """Run one case; return its line of the table."""
    rabbit.delete_queues(QUIET, FLOODED)
    publisher = Publisher(rabbit.url, window=5_000)
    for queue in (QUIET, FLOODED):
        publisher.declare_queue(queue)
    if case.flooded:
        fill(publisher, flood)
    services: list[Running] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, routes in enumerate(case.processes):
                services.append(start(rabbit, Path(folder), number, routes))
            wait_for(lambda: consumers(rabbit), "a consumer of the quiet queue", timeout=120)
            began, before = time.monotonic(), waiting(rabbit)
            trickle(publisher, rabbit, seconds, flooded=case.flooded)
            written = before - waiting(rabbit)
            pace = written / (time.monotonic() - began)
            wait_for(lambda: waiting(rabbit, QUIET) == 0, "the quiet queue to be empty", timeout=120)
        finally:
            for service in services:
                service.stop()
            publisher.close()
        figures = [float(line) for line in Path(folder, "quiet").read_text(encoding="ascii").split()][WARM:]
    percent = quantiles(figures, n=100)
    times = f"{percent[49]:.1f} | {percent[98]:.1f} | {max(figures):.0f}"
    return f"| {case.name} | {len(figures):,} | {times} | {f'{pace:,.0f}' if case.flooded else ''} |"


def start(rabbit: RabbitMQ, folder: Path, number: int, routes: Sequence[str]) -> Running:
    """Start a service with these routes."""
    text = f'broker = "{rabbit.url}"\nworkers = 2\n'
    text += "".join(f"[routes.{name}]\n{ROUTES[name]}" for name in routes)
    path = folder / f"{number}.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "aggregator.consume", "--config", str(path), "--log-level", "warning"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        FOLDER: str(folder),
        "SWITCH": os.environ.get("SWITCH", "0.005"),
    }
    return Running(command, environment, ROOT, folder / f"{number}.log")


def fill(publisher: Publisher, count: int) -> None:
    """Put the flood into its queue."""
    text = b'{"at": 0, "text": "%s"}' % (b"x" * 180)
    for first in range(0, count, 5_000):
        publisher.publish(
            [message(FLOODED, text, number) for number in range(first, min(count, first + 5_000))]
        )


def trickle(publisher: Publisher, rabbit: RabbitMQ, seconds: float, *, flooded: bool) -> None:
    """Publish to the quiet queue at its rate, for so long, or until the flood is over."""
    began = time.monotonic()
    for number in range(int(seconds * RATE)):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        publisher.publish([message(QUIET, b'{"at": %d}' % time.monotonic_ns(), number)])
        if flooded and number % RATE == 0 and number > WARM and not waiting(rabbit):
            return


def message(queue: str, body: bytes, number: int) -> Outgoing:
    """Return a persistent message with an id."""
    given: dict[str, Any] = {"delivery_mode": 2, "content_type": "application/json"}
    return Outgoing("", queue, body, {**given, "message_id": f"{queue}-{number}"})


def waiting(rabbit: RabbitMQ, queue: str = FLOODED) -> int:
    """Return how many messages of the queue nobody has taken yet."""
    with channel_of(rabbit.url) as channel:
        return int(channel.queue_declare(queue, passive=True).message_count)


def consumers(rabbit: RabbitMQ) -> int:
    """Return how many consume from the quiet queue."""
    with channel_of(rabbit.url) as channel:
        return int(channel.queue_declare(QUIET, passive=True).consumer_count)


if __name__ == "__main__":
    sys.exit(main())
