"""How long keys are without a home: three instances, partitions on RabbitMQ 4.0, one killed, one frozen.

    python -m benchmarks.partitions                # 12 partitions, 600 keys, 600 messages a second

A message of every key is published each second; the instances note when each is written. After the kill
(SIGKILL), the freeze (SIGSTOP) and the coming of a new instance it prints how many partitions moved, and the
longest time between two writes of one of their keys, less the second that lies between its messages.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

import orjson

from aggregator.partitioning import partition_name
from consumers.publisher import Outgoing, Publisher
from tests.servers import Fleet
from tests.servers.base import wait_for
from tests.service import channel_of

if TYPE_CHECKING:
    from tests.servers import RabbitMQ

SINK = """
import json, os, time
def write(request):
    now = time.time()
    with open(f"{os.environ['NOTES']}/{os.getpid()}", "a") as file:
        file.writelines(f"{now} {json.loads(item.document)['key']}\\n" for item in request)
"""
SECONDS = 12.0


class Load:
    """A message of every key a second, until it is told to stop."""

    def __init__(self, url: str, exchange: str, keys: int) -> None:
        self._arguments = (url, exchange, keys)
        self._stop = threading.Event()
        self.published = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        url, exchange, keys = self._arguments
        publisher = Publisher(url)
        at = time.monotonic()
        while not self._stop.is_set():
            messages = [
                Outgoing(
                    exchange,
                    "",
                    orjson.dumps({"key": key}),
                    {"headers": {"key": str(key)}, "delivery_mode": 2},
                )
                for key in range(keys)
            ]
            assert publisher.publish(messages) == [None] * keys
            self.published += keys
            at += 1.0
            self._stop.wait(max(0.0, at - time.monotonic()))
        publisher.close()


def start(url: str, exchange: str, partitions: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start an instance that writes each message at once."""
    flags = (
        "--broker", url, "--queue", exchange, "--partitions", str(partitions), "--correlate", "header:key",
        "--age", "20ms", "--sink", "function:noting:write", "--log-level", "error",
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{Path.cwd()}", "NOTES": str(folder / "notes")}
    return subprocess.Popen([sys.executable, "-m", "aggregator.consume", *flags], env=environment)


def wait_consumers(rabbit: RabbitMQ, partitions: int, instances: int) -> None:
    """Wait until so many instances consume every partition; a declaration counts the active ones alone."""

    def there() -> bool:
        return len(rabbit.ctl("list_consumers", "queue_name").splitlines()) > partitions * instances

    wait_for(there, f"{instances} instances", timeout=120)


def writes(folder: Path) -> dict[int, list[tuple[float, int]]]:
    """Return for each key when it was written, and by which process, in order."""
    found = defaultdict(list)
    for file in (folder / "notes").iterdir():
        for line in file.read_text().splitlines():
            when, key = line.split()
            found[int(key)].append((float(when), int(file.name)))
    return {key: sorted(times) for key, times in found.items()}


def told(what: str, folder: Path, since: float) -> None:
    """Print the longest silence of a key that moved after ``since``."""
    gaps = []
    for times in writes(folder).values():
        before = [entry for entry in times if entry[0] < since]
        after = [entry for entry in times if entry[0] >= since]
        moved = next((entry for entry in after if before and entry[1] != before[-1][1]), None)
        if moved:
            last = max(entry[0] for entry in times if entry[0] < moved[0])
            gaps.append(moved[0] - max(last + 1.0, since))
    text = f"longest {max(gaps):.2f} s, middle {sorted(gaps)[len(gaps) // 2]:.2f} s" if gaps else ""
    print(f"{what}: {len(gaps)} keys moved; without a home {text}", flush=True)


def homes(folder: Path) -> str:
    """Return how many keys each process wrote last."""
    count: dict[int, int] = defaultdict(int)
    for times in writes(folder).values():
        count[times[-1][1]] += 1
    return ", ".join(str(number) for number in sorted(count.values(), reverse=True))


def main() -> int:
    """Run it; 1 if a message was never written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--keys", type=int, default=600)
    given = parser.parse_args()
    fleet = Fleet(full_speed=True)
    exchange = "benchmark"
    running: list[subprocess.Popen[bytes]] = []
    try:
        rabbit = fleet.get("rabbitmq4")
        url = rabbit.url
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "notes").mkdir()
            (folder / "noting.py").write_text(SINK)
            running += [start(url, exchange, given.partitions, folder) for _ in range(3)]
            wait_consumers(rabbit, given.partitions, 3)
            with Load(url, exchange, given.keys) as load:
                time.sleep(SECONDS)
                print(f"keys by instance: {homes(folder)}", flush=True)
                since = time.time()
                running[0].kill()
                time.sleep(SECONDS)
                told("SIGKILL of one of three", folder, since)
                since = time.time()
                running.append(start(url, exchange, given.partitions, folder))
                wait_consumers(rabbit, given.partitions, 3)
                time.sleep(SECONDS)
                told("a third one comes", folder, since)
                print(f"keys by instance: {homes(folder)}", flush=True)
                since = time.time()
                running[1].send_signal(signal.SIGSTOP)
                time.sleep(6 * SECONDS)
                told("SIGSTOP of one of three (heartbeat 20 s)", folder, since)
                running[1].send_signal(signal.SIGCONT)
                time.sleep(SECONDS / 2)
            time.sleep(SECONDS / 2)
            written = sum(map(len, writes(folder).values()))
            print(f"{load.published} published, {written} written ({written - load.published} twice)")
            return int(written < load.published)
    finally:
        for process in running:
            process.kill()
            process.wait()
        with channel_of(url) as channel:
            channel.exchange_delete(exchange)
            for number in range(given.partitions):
                channel.queue_delete(partition_name(exchange, number))
        fleet.close()


if __name__ == "__main__":
    sys.exit(main())
