"""The main job, measured and accounted for: RabbitMQ to Elasticsearch, each message exactly once.

    python -m benchmarks.main_job --count 1000000
    python -m benchmarks.main_job --count 1000000 --brokers rabbitmq4 --queues quorum --kills 10

For each broker and type of queue: publish with confirms, run the service as a process of its own,
and account: documents, lost, duplicated, dead-lettered, sizes of batches, messages a second, CPU
seconds for 100,000 messages, peak memory. ``--kills`` ends the service with SIGKILL so often, at
random moments, and starts it again. Servers run on loopback and end with the program. Prints one
JSON object a run.
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
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import requests

from tests.servers import Fleet

MAPPING = {
    "settings": {"number_of_shards": 1, "number_of_replicas": 0},
    "mappings": {"dynamic": True},
}


def main() -> None:
    """Run every combination that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--bad", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--brokers", nargs="+", default=["rabbitmq", "rabbitmq4"])
    parser.add_argument("--queues", nargs="+", default=["classic", "quorum"])
    args = parser.parse_args()
    fleet = Fleet(full_speed=True)
    try:
        for broker in args.brokers:
            for queue_type in args.queues:
                result = run(fleet, broker, queue_type, args)
                print(json.dumps(result), flush=True)
    finally:
        fleet.close()


def run(fleet: Fleet, broker: str, queue_type: str, args: argparse.Namespace) -> dict[str, object]:
    """Publish, consume, account; return the figures."""
    rabbit, elastic = fleet.get(broker), fleet.get("elasticsearch")
    queue = f"bench-{queue_type}"
    index = f"bench-{broker}-{queue_type}"
    requests.delete(f"{elastic.url}/{index}", timeout=60)
    requests.put(f"{elastic.url}/{index}", json=MAPPING, timeout=60).raise_for_status()
    rabbit.delete_queues(queue, f"{queue}.dead")
    with TemporaryDirectory() as folder:
        ids = Path(folder, "ids")
        started = time.monotonic()
        _python(
            "producers.load", "--broker", rabbit.url, "--queue", queue, "--count", str(args.count),
            "--queue-type", queue_type, "--bad", str(args.bad), "--seed", str(args.seed), "--ids", str(ids),
        )  # fmt: skip
        published = time.monotonic() - started
        confirmed = set(ids.read_text().split())
        figures = consume(rabbit, queue, f"elasticsearch+{elastic.url}/{index}", folder, args)
    written, rewritten = documents(elastic.url, index)
    dead = rabbit.counts(f"{queue}.dead").ready
    left = rabbit.counts(queue)
    rabbit.delete_queues(queue, f"{queue}.dead")
    requests.delete(f"{elastic.url}/{index}", timeout=60)
    return {
        "broker": rabbit.version,
        "queue": queue_type,
        "confirmed": len(confirmed),
        "documents": len(written),
        "dead_lettered": dead,
        "lost": len(confirmed - written) - dead,
        "unexpected": len(written - confirmed),
        "rewritten": rewritten,
        "left": left.ready + left.unacked,
        "published_per_s": round(args.count / published),
        **figures,
    }


def consume(rabbit, queue: str, sink: str, folder: str, args: argparse.Namespace) -> dict[str, object]:
    """Run the service until the queue is empty, killing it as often as asked for."""
    rng = random.Random(args.seed)
    command = [
        sys.executable, "-m", "aggregator.consume", "--broker", rabbit.url, "--queue", queue, "--sink", sink,
        "--size", str(args.size), "--age", "2s", "--workers", str(args.workers), "--until-empty",
        "--log-format", "json",
    ]  # fmt: skip
    log = Path(folder, "log")
    kills, cpu, memory = 0, 0.0, 0
    started = time.monotonic()
    with log.open("ab") as lines:
        while True:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=lines)
            until = time.monotonic() + rng.uniform(1.0, 4.0) if kills < args.kills else float("inf")
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                memory = max(memory, peak_kb(process.pid))
                if time.monotonic() >= until:
                    process.kill()
                    kills += 1
                    until = float("inf")
                time.sleep(0.1)
            _, status, usage = ended
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
            if process.returncode >= 0:
                break
    seconds = time.monotonic() - started
    batches = [json.loads(line) for line in log.read_text().splitlines() if '"event": "batch"' in line]
    sizes = sorted(batch["messages"] for batch in batches)
    first = next(
        (json.loads(line)["timestamp"] for line in log.read_text().splitlines() if '"batch"' in line), ""
    )
    last = batches[-1]["timestamp"] if batches else ""
    span = _seconds(first, last)
    return {
        "exit": process.returncode,
        "kills": kills,
        "seconds": round(seconds, 1),
        "messages_per_s": round(sum(sizes) / span) if span else None,
        "cpu_s_per_100k": round(cpu / args.count * 100_000, 2),
        "peak_mb": round(memory / 1024),
        "batches": len(sizes),
        "batch_p50": sizes[len(sizes) // 2] if sizes else 0,
        "batch_p99": sizes[int(len(sizes) * 0.99)] if sizes else 0,
        "batch_p01": sizes[int(len(sizes) * 0.01)] if sizes else 0,
        "triggers": dict(Counter(batch["trigger"] for batch in batches)),
        "duplicate_verdicts": sum(batch.get("duplicate", 0) for batch in batches),
    }


def peak_kb(pid: int) -> int:
    """Return the most memory that a process had at once; ru_maxrss would count its parent's too."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def documents(url: str, index: str) -> tuple[set[str], int]:
    """Return the ids of all documents, and how many were written more than once."""
    requests.post(f"{url}/{index}/_refresh", timeout=120).raise_for_status()
    found: set[str] = set()
    rewritten = 0
    pit = requests.post(f"{url}/{index}/_pit?keep_alive=5m", timeout=60).json()["id"]
    query = {
        "size": 10_000,
        "_source": False,
        "version": True,
        "sort": ["_shard_doc"],
        "track_total_hits": False,
    }
    after = None
    while True:
        body = {**query, "pit": {"id": pit, "keep_alive": "5m"}, **({"search_after": after} if after else {})}
        hits = requests.post(f"{url}/_search", json=body, timeout=120).json()["hits"]["hits"]
        if not hits:
            return found, rewritten
        found.update(hit["_id"] for hit in hits)
        rewritten += sum(hit["_version"] > 1 for hit in hits)
        after = hits[-1]["sort"]


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL)


def _seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds() if first else 0.0


if __name__ == "__main__":
    main()
