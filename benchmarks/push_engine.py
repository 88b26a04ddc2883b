"""``python -m benchmarks.push_engine``: what one push costs each engine, against the compiled gateway.

Each engine is a process of its own that writes as the service does: lists of items to the sink, as
many at once as it allows. CPU is the process's own, all threads; the gateway's is told beside it, and
its account says whether each device got one push.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import psutil
import requests

from aggregator.push import Address, Notification
from aggregator.sinks import from_url
from aggregator.sinks.base import Fate
from benchmarks.build import BUILD, MissingError, build
from benchmarks.process import leash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENGINES = ("curl", "aioapns", "fcm")
PAYLOAD = b'{"aps":{"alert":{"title":"hello","body":"You have 3 new letters"},"badge":3}}'
MESSAGE = b'{"notification":{"title":"hello","body":"You have 3 new letters"},"data":{"n":"3"}}'


@dataclass(slots=True)
class Push:
    """An item as a sink for pushes reads it."""

    id: str
    document: bytes
    address: Address


class Gateway:
    """The program of ``gateway/``, a process of its own."""

    def __init__(self, devices: int, latency: str) -> None:
        build("gateway")
        how = json.dumps({"latency": latency})
        command = [*leash(), str(BUILD / "gateway"), "-devices", str(devices), "-behaviour", how]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.ready: dict[str, str] = json.loads(self._process.stdout.readline())
        self._session = requests.Session()
        self._session.trust_env = False
        self._devices = devices

    def reset(self) -> None:
        path = f"{self.ready['control']}/reset?devices={self._devices}"
        self._session.post(path, timeout=30).raise_for_status()

    def account(self) -> dict[str, Any]:
        """Return the account of ``gateway/account.go``."""
        account: dict[str, Any] = self._session.get(f"{self.ready['control']}/account", timeout=30).json()
        return account

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        process = psutil.Process(self._process.pid)
        family = [process, *process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in family)

    def close(self) -> None:
        self._session.close()
        self._process.terminate()
        with self._process:
            pass


def sink_url(engine: str, ready: dict[str, str]) -> str:
    """Return the sink's URL for an engine."""
    if engine == "fcm":
        names, kind, more = ("credentials", "project", "ca"), "fcm", {"rate": "1000000"}
    else:
        names, kind, more = ("key", "key_id", "team_id", "topic", "ca"), "apns", {"engine": engine}
    return f"{kind}+{ready['url']}/?{urlencode({name: ready[name] for name in names} | more)}"


def items(engine: str, count: int) -> Iterator[Push]:
    """Yield pushes for the devices 0 to ``count``."""
    fcm = engine == "fcm"
    payload = MESSAGE if fcm else PAYLOAD
    notification = Notification(payload=payload, campaign="bench")
    for number in range(count):
        token = f"device-{number}" if fcm else f"{number:064x}"
        address = Address(token, str(number), "fcm" if fcm else "apns", "", 0.0, number, notification)
        yield Push(f"bench/{number}", payload, address)


def child(engine: str, count: int, url: str) -> None:
    """Write all pushes; print seconds, CPU seconds and how many were not written, as JSON."""
    sink: Any = from_url(url)
    sink.open()

    def write(some: Sequence[Push]) -> int:
        verdicts = sink.write(some)
        return sum(one.fate is not Fate.WRITTEN for one in verdicts) if verdicts else 0

    made, size = list(items(engine, count)), sink.limits.items
    prepared = [made[start : start + size] for start in range(0, count, size)]
    began, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(sink.limits.concurrency) as pool:
        unwritten = sum(pool.map(write, prepared))
    found = [time.perf_counter() - began, time.process_time() - cpu, unwritten]
    sink.close()
    print(json.dumps(found))


def measure(engine: str, count: int, latency: str) -> str:
    """Return one row of the table."""
    gateway = Gateway(count, latency)
    try:
        url = sink_url(engine, gateway.ready)
        before = gateway.cpu()
        command = [sys.executable, "-m", "benchmarks.push_engine", "--child", engine, "--count", str(count)]
        done = subprocess.run(command, input=url, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{engine}: exit {done.returncode}\n{done.stderr[-2000:]}")
        seconds, cpu, unwritten = json.loads(done.stdout.splitlines()[-1])
        used, account = gateway.cpu() - before, gateway.account()
    finally:
        gateway.close()
    faults = [f"{unwritten:.0f} not written"] if unwritten else []
    if account["delivered"] != count or account["duplicates"]:
        faults.append(f"{account['delivered']} of {count} delivered, {account['duplicates']} twice")
    each = 1000 / count
    return (
        f"| {engine} | {count:,} | {count / seconds:,.0f} | {cpu * each:.3f} | {used * each:.3f} "
        f"| {account['connections']} | {'; '.join(faults) or 'each device once'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.push_engine", description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, action="append", help="all of them by default")
    parser.add_argument("--count", type=int, default=50_000, help="pushes for each")
    parser.add_argument("--latency", default="20ms", help="of the gateway")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.count < 1:
        parser.error("--count: at least 1 is needed")
    if given.child:
        child(given.child, given.count, sys.stdin.read())
        return
    print("| Engine | Pushes | Pushes/s | CPU ms a push | Gateway's | Connections | |")
    print("|---|--:|--:|--:|--:|--:|---|")
    for engine in given.engine or ENGINES:
        try:
            print(measure(engine, given.count, given.latency), flush=True)
        except MissingError as exc:
            raise SystemExit(str(exc)) from None


if __name__ == "__main__":
    main()
