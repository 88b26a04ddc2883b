"""Groups with a counted sentinel, under kill -9: each has to become one document, complete.

    python -m benchmarks.groups --groups 10000 --members 20 --kills 10
    python -m benchmarks.groups --open 10000                # all of them interleaved
    python -m benchmarks.groups --no-counts --grace 1s      # sentinels that do not count

Publishes with confirms, runs five workers with ``aggregate = list`` into Elasticsearch, ends the service
with SIGKILL at random moments while groups complete, starts it again, and accounts for each key: its
documents, their members, each of which has to stand in exactly one. Prints one JSON object a run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import requests

from benchmarks.main_job import peak_kb
from tests.servers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE_SECONDS = 60.0


def main() -> None:
    """Run every combination that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--open", type=int, default=500, help="groups that take turns")
    parser.add_argument("--prefetch", type=int, default=0, help="of each of 5 workers; 0: what is needed")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--no-counts", action="store_true")
    parser.add_argument("--connections", type=int, default=1, help="of the publisher")
    parser.add_argument("--grace", default="1s")
    parser.add_argument("--idle", default="30s", help="when what will never be complete goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--brokers", nargs="+", default=["rabbitmq4"])
    parser.add_argument("--queues", nargs="+", default=["quorum"])
    args = parser.parse_args()
    fleet = Fleet(full_speed=True)
    try:
        for broker in args.brokers:
            for queue_type in args.queues:
                print(json.dumps(run(fleet, broker, queue_type, args)), flush=True)
    finally:
        fleet.close()


def run(fleet: Fleet, broker: str, queue_type: str, args: argparse.Namespace) -> dict[str, object]:
    """Publish, consume under kills, account."""
    rabbit, elastic = fleet.get(broker), fleet.get("elasticsearch")
    queue, index = f"groups-{queue_type}", f"groups-{broker}-{queue_type}"
    mapping = {
        "settings": {"number_of_shards": 1, "number_of_replicas": 0, "max_result_window": 200_000},
        "mappings": {"properties": {"messages": {"enabled": False}, "key": {"type": "keyword"}}},
    }
    requests.delete(f"{elastic.url}/{index}", timeout=60)
    requests.put(f"{elastic.url}/{index}", json=mapping, timeout=60).raise_for_status()
    rabbit.delete_queues(queue, f"{queue}.dead")
    subprocess.run(
        [
            sys.executable, "-m", "producers.load", "--broker", rabbit.url, "--queue", queue,
            "--count", str(args.groups * args.members), "--keys", str(args.groups), "--open-keys",
            str(args.open), "--sentinels", "--queue-type", queue_type, "--seed", str(args.seed),
            "--connections", str(args.connections),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        figures = consume(rabbit, queue, f"elasticsearch+{elastic.url}/{index}", folder, args)
    found = documents(elastic.url, index)
    for _ in range(20):  # the broker brings its numbers up to date every 5 s, when it has the time
        time.sleep(3)
        left = rabbit.counts(queue)
        if not left.ready + left.unacked:
            break
    result = {
        "broker": rabbit.version,
        "queue": queue_type,
        "groups": args.groups,
        "open": args.open,
        **account(found, args.groups * args.members, args.members),
        "dead_lettered": rabbit.counts(f"{queue}.dead").ready,
        "left": left.ready + left.unacked,
        **figures,
    }
    rabbit.delete_queues(queue, f"{queue}.dead")
    requests.delete(f"{elastic.url}/{index}", timeout=60)
    return result


def account(found: list[tuple[str, list[int], int]], messages: int, members: int) -> dict[str, object]:
    """Return what became of the groups; ``found``: key, the members' numbers and version of each document."""
    by_key = Counter(key for key, _, _ in found)
    written = Counter(number for _, numbers, _ in found for number in numbers)
    return {
        "documents": len(found),
        "whole": sum(len(set(numbers)) == len(numbers) == members for _, numbers, _ in found),
        "keys_split": sum(number > 1 for number in by_key.values()),
        "lost": messages - len(written),
        "in_several_documents": sum(number > 1 for number in written.values()),
        "rewritten": sum(version > 1 for _, _, version in found),
    }


def documents(url: str, index: str) -> list[tuple[str, list[int], int]]:
    """Return key, numbers of the members, and version of each document."""
    requests.post(f"{url}/{index}/_refresh", timeout=120).raise_for_status()
    found = []
    query = {"size": 2_000, "version": True, "sort": ["_doc"]}
    answer = requests.post(f"{url}/{index}/_search?scroll=5m", json=query, timeout=120).json()
    while hits := answer["hits"]["hits"]:
        for hit in hits:
            source = hit["_source"]
            found.append((source["key"], [one["number"] for one in source["messages"]], hit["_version"]))
        body = {"scroll": "5m", "scroll_id": answer["_scroll_id"]}
        answer = requests.post(f"{url}/_search/scroll", json=body, timeout=120).json()
    return found


def consume(rabbit, queue: str, sink: str, folder: str, args: argparse.Namespace) -> dict[str, object]:
    """Run the service until the queue is empty; kill it after so many batches, drawn at random."""
    rng = random.Random(args.seed)
    prefetch = args.prefetch or min(65_535, args.open * (args.members + 1) * 4 // 5 + 100)
    command = [
        sys.executable, "-m", "aggregator.consume", "--broker", rabbit.url, "--queue", queue, "--sink", sink,
        "--workers", "5", "--prefetch", str(prefetch), "--correlate", "correlation_id",
        "--aggregate", "list", "--sentinel", "type=sentinel", "--size", "none", "--bytes", "none",
        "--age", "none", "--idle", args.idle, "--log-format", "json",
        *(["--sentinel-grace", args.grace] if args.no_counts else ["--sentinel-count", "count"]),
    ]  # fmt: skip
    log = Path(folder, "log")
    kills, cpu, memory = 0, 0.0, 0
    started = time.monotonic()
    with log.open("ab") as lines:
        while True:
            # after a kill the broker needs a moment until all is ready again: until then it looks empty
            last = ["--until-empty"] if kills == args.kills else []
            time.sleep(8 if last else 0)
            process = subprocess.Popen([*command, *last], stdout=subprocess.DEVNULL, stderr=lines)
            # so many more batches, then a moment more: in the middle of writing and acking
            most = args.groups // (args.kills + 1)
            goal = batches(log) + rng.randrange(1, most) if kills < args.kills else None
            seen, since = batches(log), time.monotonic()
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                memory = max(memory, peak_kb(process.pid))
                if goal is not None and (number := batches(log)) != seen:
                    seen, since = number, time.monotonic()
                # nothing left to be killed in the middle of: once all that can be complete is
                if goal is not None and (seen >= goal or time.monotonic() - since > IDLE_SECONDS):
                    time.sleep(rng.uniform(0, 0.02))
                    process.kill()
                    kills, goal = kills + 1, None
                time.sleep(0.01 if goal is not None else 0.1)
            _, status, usage = ended
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
            if process.returncode >= 0:
                break
    told = list(reports(log))
    return {
        "exit": process.returncode,
        "kills": kills,
        "prefetch": prefetch,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_s_per_100k": round(cpu / (args.groups * args.members) * 100_000, 2),
        "peak_mb": round(memory / 1024),
        "triggers": dict(Counter(line["trigger"] for line in told)),
        "remnants_recognised": sum(
            not line["complete"] and line.get("duplicate", 0) == line["messages"] > 0 for line in told
        ),
    }


def reports(log: Path) -> Iterator[dict[str, Any]]:
    """Yield what each batch told; a process that was killed may have left half a line."""
    for line in log.read_text().splitlines():
        if '"event": "batch"' in line:
            with suppress(json.JSONDecodeError):
                yield json.loads(line)


def batches(log: Path) -> int:
    """Return how many batches the log tells of."""
    return log.read_bytes().count(b'"event": "batch"')


if __name__ == "__main__":
    main()
