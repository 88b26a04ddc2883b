"""``python -m benchmarks.campaign``: a campaign from users in Tarantool to a gateway that answers late.

All on this machine: the servers, the API, the sending side, and the compiled gateway. Prints how long it
took, whom it reached, what each part used of CPU, and how quick point reads of users were before and
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psutil
import requests

from benchmarks.build import BUILD, build
from benchmarks.figures import percentile
from benchmarks.push_engine import sink_url
from consumers.tarantool import Tarantool
from producers.campaigns.answers import ENDED
from producers.campaigns.demo import CAMPAIGN
from producers.campaigns.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from producers.campaigns.stage import Api

READS_A_SECOND = 100
IDLE_SECONDS = 5.0
READ = "return box.space.users:get(...) ~= nil"


def main() -> int:
    """Run it; 1 if a device was not reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--latency", default="20ms")
    parser.add_argument(
        "--behaviour", type=json.loads, default={}, help="more for the gateway, as its page has it"
    )
    parser.add_argument("--goaway", type=float, default=0.0, help="seconds between two GOAWAYs; 0 for none")
    parser.add_argument("--workers", type=int, default=1, help="of a route, at each server")
    parser.add_argument("--prefetch", type=int, default=8, help="tasks that a worker holds")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which it is given up")
    given = parser.parse_args()
    build("gateway")
    with Stage(shown=sys.stderr) as stage:
        for _ in range(given.servers):
            stage.tarantool(memory=max(512, given.users // 1_500))
        stage.join()
        behaviour = json.dumps({"latency": given.latency, **given.behaviour})
        gateway = stage.told("gateway", [str(BUILD / "gateway"), "-behaviour", behaviour])
        began = time.monotonic()
        stage.users(given.users)
        print(f"{given.users:,} users loaded in {time.monotonic() - began:.1f} s", flush=True)
        return measure(stage, gateway, given)


def measure(stage: Stage, gateway: dict[str, Any], given: argparse.Namespace) -> int:
    """Run the campaign and print what came of it."""
    api = stage.api()
    sinks = {"apns": sink_url("curl", gateway), "fcm": sink_url("fcm", gateway)}
    stage.consume(sinks, workers=given.workers, prefetch=given.prefetch)
    api.post("/campaigns", {**CAMPAIGN, "id": "bench"})
    reads = Reads(stage)
    time.sleep(IDLE_SECONDS)
    idle = reads.take()
    before, began = used(stage), time.monotonic()
    api.post("/campaigns/bench/start")
    progress = follow(api, gateway, given)
    seconds, after, meanwhile = time.monotonic() - began, used(stage), reads.take()
    reads.close()
    account = requests.get(f"{gateway['control']}/account", timeout=30).json()
    done = progress["done"]
    print(f"{done:,} devices in {seconds:.1f} s: {done / seconds:,.0f}/s\nthe gateway: {account}")
    for each in progress["platforms"]:
        print(f"last words, {each['platform']}: sent {each['sent']:,}, {each['reasons']}")
    for name, spent in after.items():
        each = (spent - before.get(name, 0)) / max(done, 1)
        print(f"{name:>12}: {each * 1000:.4f} ms of CPU a push, {memory_mb(stage, name):.0f} MB")
    print(f"point reads: idle {told(idle)}; meanwhile {told(meanwhile)}")
    show_noise(stage)
    refused = sum(each["refused"] for each in progress["platforms"])
    missed = given.users - account["delivered"] - refused
    print(f"{missed} devices without a last word, {account['duplicates']} pushes too many")
    return 1 if missed > 0 or done != given.users else 0


def follow(api: Api, gateway: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Wait until the campaign ends, or its time is over; return its progress."""
    began = time.monotonic()
    goaway = began + given.goaway
    while True:
        time.sleep(1.0)
        if given.goaway and time.monotonic() >= goaway:
            goaway += given.goaway
            requests.post(f"{gateway['control']}/goaway", timeout=30).raise_for_status()
        progress: dict[str, Any] = api.get("/campaigns/bench/progress")
        if progress["done"] >= given.users or progress["state"] in ENDED:
            return progress
        if (seconds := time.monotonic() - began) > given.limit:
            print(f"given up after {seconds:.0f} s: {progress['state']}, {progress['done']:,} done")
            return progress


def show_noise(stage: Stage) -> None:
    """Print what the sending side logged beside its batches, and the writes in which not all was taken."""
    lines = (stage.folder / "consume.log").read_text(errors="replace").splitlines()
    noise = [line for line in lines if '"event": "batch"' not in line and '"not_taken": {}' not in line]
    print(*(line[:300] for line in noise[:40]), sep="\n")


class Reads:
    """Point reads of users at the first server, at a steady rate, on a thread of their own."""

    def __init__(self, stage: Stage) -> None:
        self._url = stage.url("admin", stage.servers[0])
        self._ended = threading.Event()
        self._taken: list[float] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def take(self) -> list[float]:
        """Return the seconds that each took since the last time."""
        taken, self._taken = self._taken, []
        return taken

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        with closing(Tarantool(self._url, timeout=30)) as client:
            number = 0
            while not self._ended.wait(1 / READS_A_SECOND):
                number += 1
                began = time.perf_counter()
                client.eval(READ, number)
                self._taken.append(time.perf_counter() - began)


def used(stage: Stage) -> dict[str, float]:
    """Return CPU seconds by process, children included."""
    spent = {}
    for name, process in stage.processes.items():
        if process.poll() is None:
            one = psutil.Process(process.pid)
            spent[name] = sum(sum(each.cpu_times()[:2]) for each in (one, *one.children(recursive=True)))
    return spent


def memory_mb(stage: Stage, name: str) -> float:
    """Return the memory that a process has now."""
    return psutil.Process(stage.processes[name].pid).memory_info().rss / 2**20


def told(seconds: Sequence[float]) -> str:
    """Return the percentiles of some reads."""
    marks = ", ".join(f"p{share * 100:g} {percentile(seconds, share) * 1000:.2f} ms" for share in (0.5, 0.99))
    return f"{marks} ({len(seconds):,})"


if __name__ == "__main__":
    sys.exit(main())
