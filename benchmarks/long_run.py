"""Memory over a long run: published, consumed and written at once, without a pause.

    python -m benchmarks.long_run                     # ten million messages, some five minutes
    python -m benchmarks.long_run --count 1000000

One line for each tenth of the messages: how many were written, seconds since the start, and the
service's resident memory, now and at most. Everything is on: ids, check of the documents, ledger.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import runs
from benchmarks.build import BUILD, build
from benchmarks.catalogue import CATALOGUE, OURS
from benchmarks.filling import QUEUE, Filler, declare
from benchmarks.main_job import peak_kb
from benchmarks.targets import NullSink
from benchmarks.watch import Watch
from tests.servers import Fleet

#: Published and not yet written, at most: the queue is to be neither empty nor long.
AHEAD = 200_000
CALL = 20_000


def main() -> int:
    """Run it; 1 if a message was not written and acked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000_000)
    count = parser.parse_args().count
    build("sink")
    fleet = Fleet(full_speed=True)
    try:
        rabbit = fleet.get("rabbitmq")
        target = NullSink(BUILD / "sink")
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(runs.Bench(rabbit, target, Path(folder)), count)
        finally:
            target.close()
    finally:
        fleet.close()
    print("; ".join(found) or f"all {count:,} were written and acked")
    return 1 if found else 0


def measure(bench: runs.Bench, count: int) -> list[str]:
    """Print a line for each tenth; return what is wrong at the end."""
    peer = CATALOGUE[OURS]
    declare(bench.rabbit)
    bench.target.reset(count)
    watch = Watch(bench.rabbit, QUEUE)
    filler = Filler(bench.rabbit, count)
    running = bench.start(peer, runs.SLOW_AGE_MS)
    began, told = time.monotonic(), 0
    try:
        for sent in range(0, count, CALL):
            filler.publish(min(CALL, count - sent))
            bench.wait_written(peer, running, sent - AHEAD)
            if sent - told >= count // 10:
                told = sent
                tell(bench, running.process.pid, time.monotonic() - began)
        bench.wait_written(peer, running, count)
        tell(bench, running.process.pid, time.monotonic() - began)
        return runs.faults(bench, peer, watch.collect())
    finally:
        filler.close()
        running.stop()


def tell(bench: runs.Bench, pid: int, seconds: float) -> None:
    """Print where it stands."""
    now = psutil.Process(pid).memory_info().rss / 2**20
    print(
        f"{bench.target.written():>12,} written {seconds:>7.0f} s  "
        f"{now:>6.1f} MB now  {peak_kb(pid) / 1024:>6.1f} MB at most",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
