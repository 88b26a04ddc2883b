"""What the check for duplicates costs at ten million ids: memory, time to learn them, CPU for each message.

    python -m benchmarks.seen --ids 10000000

Fills a Redis of its own with UUIDs as other processes would, then starts one more process beside it, which
learns them all, and writes requests of 1,000 to a sink that keeps nothing: new ids, and ids seen before,
with the check and without. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import uuid
from random import Random
from typing import TYPE_CHECKING, Any

import psutil

from aggregator.backoff import Backoff
from aggregator.seen import SeenIds
from aggregator.sinks.base import Limits
from aggregator.sinks.seen import SeenSink
from aggregator.stores.redis_url import SeenOptions, read_url
from aggregator.stores.seen_redis_client import RedisSeen
from aggregator.testing.memory import MemoryDelivery
from benchmarks.main_job import peak_kb
from tests.servers.redis import redis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.delivery import Item

REQUEST = 1000


class NullSink:
    """Takes everything and keeps nothing."""

    limits = Limits()

    def open(self) -> None: ...
    def write(self, items: Sequence[Item]) -> None: ...
    def close(self) -> None: ...
    def where(self) -> str:
        return "nowhere"


def main() -> None:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ids", type=int, default=10_000_000)
    parser.add_argument("--messages", type=int, default=300_000)
    args = parser.parse_args()
    server = redis()
    server.start()
    try:
        url = f"{server.url}?prefix=bench&ttl=1d&most={args.ids * 3 // 2}&timeout=10s"
        context = multiprocessing.get_context("spawn")  # memory is a fresh process's
        with context.Pool(1, maxtasksperchild=1) as pool:
            found = pool.apply(fill, (url, args.ids))
        with context.Pool(1, maxtasksperchild=1) as pool:
            found |= pool.apply(measure, (url, args.messages))
        print(json.dumps({"ids": args.ids, **found}, indent=1))
    finally:
        server.close()


def names(seed: int, start: int, count: int) -> list[str]:
    """Return the ids of one request; the same for the same numbers."""
    chance = Random(seed * 1_000_003 + start)
    return [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(count)]


def fill(url: str, ids: int) -> dict[str, Any]:
    """Enter ids as fast as one process can."""
    store = RedisSeen(*read_url(url, SeenOptions, "seen"))
    store.open()
    spent = 0.0
    for start in range(0, ids, REQUEST):
        chunk = names(1, start, REQUEST)
        began = time.monotonic()
        store.enter(chunk)
        spent += time.monotonic() - began
    memory = store.client.info("memory")
    keys = {
        key.decode().rpartition("}")[2]: store.client.memory_usage(key, samples=1000)
        for key in sorted(store.client.scan_iter("{bench}*"))
    }
    return {
        "redis_bytes_per_id": round(memory["used_memory"] / ids, 1),
        "redis_mb": round(memory["used_memory"] / 1e6),
        "redis_peak_mb": round(memory["used_memory_peak"] / 1e6),
        "redis_feed_mb": round(keys.get(":feed", 0) / 1e6, 1),
        "enter_ms_per_1000": round(spent / (ids / REQUEST) * 1000, 2),
    }


def measure(url: str, messages: int) -> dict[str, Any]:
    """Learn all ids, and write with the check and without."""
    store = RedisSeen(*read_url(url, SeenOptions, "seen"))
    found = learn(store, messages)
    sink = SeenSink(NullSink(), store, store.make_filter)
    sink.open()
    began = time.monotonic()
    while not sink.ids.complete:
        time.sleep(0.05)
    found["learnt_in_a_thread_s"] = round(time.monotonic() - began, 1)
    for what, seed in (("new", 3), ("seen", 1)):
        requests = [items(seed, start) for start in range(0, messages, REQUEST)]
        for _ in range(2):  # what is measured twice was warm the second time
            without = spend(NullSink(), requests)
        before = redis_cpu(store)
        cost = spend(sink, requests, sink.ids)
        found[f"{what}_cpu_s_per_100k_without"] = round(without / messages * 1e5, 4)
        found[f"{what}_cpu_s_per_100k_with"] = round(cost / messages * 1e5, 4)
        found[f"{what}_redis_cpu_s_per_100k"] = round((redis_cpu(store) - before) / messages * 1e5, 4)
    doubts = names(1, 0, REQUEST)
    began = time.monotonic()
    for _ in range(50):
        assert len(store.known(doubts)) == REQUEST
    found["ask_ms_per_1000"] = round((time.monotonic() - began) / 50 * 1000, 2)
    sink.close()
    return found


def learn(store: RedisSeen, messages: int) -> dict[str, Any]:
    """Make the copy, alone; look how often it errs."""
    before = psutil.Process().memory_info().rss
    counts: dict[str, int] = {}
    fresh = SeenIds(
        store,
        store.make_filter,
        interval=1.0,
        backoff=Backoff(),
        count=lambda outcome, number: counts.update({outcome: counts.get(outcome, 0) + number}),
    )
    fresh.open()
    began, cpu = time.monotonic(), time.process_time()
    while not fresh.complete:
        fresh.step()
    learnt = {
        "learnt_in_s": round(time.monotonic() - began, 1),
        "learnt_cpu_s": round(time.process_time() - cpu, 1),
        "copy_mb": round((psutil.Process().memory_info().rss - before) / 1e6, 1),
        "process_peak_mb": round(peak_kb(os.getpid()) / 1024, 1),
    }
    tried = 10 * messages
    for start in range(0, tried, REQUEST):
        assert not fresh.known(names(2, start, REQUEST))
    return learnt | {"tried_new": tried, "asked_in_vain": counts.get("asked", 0)}


def items(seed: int, start: int) -> list[MemoryDelivery]:
    """Return a request."""
    made = []
    for name in names(seed, start, REQUEST):
        item = MemoryDelivery(b"{}")
        item.id, item.document, item.fingerprint = name, b"{}", 1
        made.append(item)
    return made


def spend(sink: Any, requests: list[list[MemoryDelivery]], ids: SeenIds | None = None) -> float:
    """Write all; return the CPU seconds of this process, its threads included, until all is entered."""
    began = time.process_time()
    for request in requests:
        sink.write(request)
    while ids is not None and ids.pending:
        time.sleep(0.01)
    return time.process_time() - began


def redis_cpu(store: RedisSeen) -> float:
    """Return the CPU seconds that the server has spent."""
    said = store.client.info("cpu")
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])


if __name__ == "__main__":
    sys.exit(main())
