"""From the last word on a message to its ack on the wire: the service's own histogram at a steady rate.

    python -m benchmarks.ack_lag                           # 1,000 messages a second, 30 s, age 100 ms
    python -m benchmarks.ack_lag --target elasticsearch

Prints for each bound of ``aggregator_ack_lag_seconds`` how many of the acks after the warm-up were sent
within it, and the seconds from publish to ack beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import runs
from benchmarks.build import BUILD, build
from benchmarks.catalogue import CATALOGUE, OURS, ours
from benchmarks.targets import NullSink, RealElasticsearch
from tests.servers import Fleet
from tests.servers.base import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.targets import Target

Buckets = dict[float, float]
LOOK_SECONDS = 0.5


def main() -> int:
    """Run it; 1 if a message was not written and acked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", choices=("null", "elasticsearch"), default="null")
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    build("sink")
    fleet = Fleet(full_speed=True)
    try:
        rabbit = fleet.get("rabbitmq")
        null = args.target == "null"
        target = NullSink(BUILD / "sink") if null else RealElasticsearch(fleet.get("elasticsearch"))
        try:
            return measure(rabbit, target, args.seconds)
        finally:
            target.close()
    finally:
        fleet.close()


def measure(rabbit, target: Target, seconds: float) -> int:
    """Print the figures of one run."""
    port = free_port()
    peer = replace(CATALOGUE[OURS], command=ours("--metrics-port", str(port)))
    looks: list[Buckets] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            with suppress(requests.RequestException):  # not up yet, or gone
                looks.append(dict(buckets(f"http://127.0.0.1:{port}/metrics")))

    looking = threading.Thread(target=look)
    with tempfile.TemporaryDirectory() as folder:
        looking.start()
        try:
            found = runs.latency(runs.Bench(rabbit, target, Path(folder)), peer, seconds)
        finally:
            ended.set()
            looking.join()
    if found["faults"]:
        print("; ".join(found["faults"]))
        return 1
    # what was published at the rate: from the last looks, as many as fit into these seconds
    first = looks[-min(len(looks), int(seconds / LOOK_SECONDS))]
    for bound, count in looks[-1].items():
        print(f"within {bound * 1000:>8g} ms: {count - first[bound]:>8.0f}")
    print(f"publish to ack: p50 {found['p50_ms']:.0f} ms, p99 {found['p99_ms']:.0f} ms")
    return 0


def buckets(url: str) -> Iterator[tuple[float, float]]:
    """Yield the upper bounds in seconds, and how many stand below each."""
    for family in text_string_to_metric_families(requests.get(url, timeout=5).text):
        for sample in family.samples:
            if sample.name == "aggregator_ack_lag_seconds_bucket":
                yield float(sample.labels["le"]), sample.value


if __name__ == "__main__":
    sys.exit(main())
