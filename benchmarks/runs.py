"""One run of one consumer: the queue filled, the consumer started, what it did accounted for."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import figures
from benchmarks.build import BUILD
from benchmarks.catalogue import ROOT, Settings
from benchmarks.filling import QUEUE, Filler, declare
from benchmarks.process import Running
from benchmarks.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.catalogue import Peer
    from benchmarks.targets import Target
    from tests.servers import RabbitMQ

SIZE = 1_000
RATE, CALL = 1_000, 10
SLOW_AGE_MS, QUICK_AGE_MS = 2_000, 100
#: Messages before those of a latency that are counted, at most.
WARM_LATENCY = 20_000
#: Messages after those that are counted: what a consumer does ahead of its acks is the same at both ends.
TAIL = 10_000
_LOOK_SECONDS, _PATIENCE = 0.1, 180.0


class RunError(Exception):
    """The consumer ended, or did not get through."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share: the servers, and where logs go."""

    rabbit: RabbitMQ
    target: Target
    folder: Path

    def start(self, peer: Peer, age_ms: int) -> Running:
        """Start a consumer; its log is emptied."""
        broker = self.rabbit.url.removesuffix("//") + "/%2F"
        settings = Settings(broker, QUEUE, self.target.url, SIZE, age_ms, BUILD)
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        log = self.folder / f"{peer.name}.log"
        log.write_bytes(b"")
        environment = {
            **inherited,
            "PYTHONPATH": str(ROOT) if peer.folder == ROOT else "",
            **settings.environment(),
        }
        return Running(peer.command(settings), environment, peer.folder, log)

    def wait_written(self, peer: Peer, running: Running, count: int) -> None:
        """Wait until the target has so many documents."""
        deadline = time.monotonic() + _PATIENCE
        while (written := self.target.written()) < count:
            if not running.alive() or time.monotonic() > deadline:
                words = (self.folder / f"{peer.name}.log").read_text(errors="replace")[-2000:]
                state = "waits" if running.alive() else "ended"
                raise RunError(f"{peer.name} {state} after {written} of {count} documents\n{words}")
            time.sleep(_LOOK_SECONDS)


def throughput(bench: Bench, peer: Peer, count: int) -> dict[str, Any]:
    """Drain a full queue; what lies between the warm-up and the tail counts."""
    total = peer.warm + count + TAIL
    declare(bench.rabbit)
    filler = Filler(bench.rabbit, total, tasks=peer.tasks)
    filler.publish(total)
    filler.close()
    bench.target.reset(total)
    watch = Watch(bench.rabbit, QUEUE)
    running = bench.start(peer, SLOW_AGE_MS)
    try:
        bench.wait_written(peer, running, total)
        held = watch.collect()
    finally:
        running.stop()
    acks = figures.acked(held, total)
    measured = figures.throughput(acks, running.cpu, peer.warm, count)
    return {**measured, "peak_mb": running.peak_mb, "faults": faults(bench, peer, held)}


def latency(bench: Bench, peer: Peer, seconds: float) -> dict[str, Any]:
    """Publish at a steady rate to a consumer that waits; what follows the warm-up counts."""
    warm = min(peer.warm, WARM_LATENCY)
    count = round(seconds * RATE)
    declare(bench.rabbit)
    bench.target.reset(warm + count)
    watch = Watch(bench.rabbit, QUEUE, interval_ms=2)
    running = bench.start(peer, QUICK_AGE_MS)
    filler = Filler(bench.rabbit, warm + count, tasks=peer.tasks)
    try:
        filler.publish(warm)
        bench.wait_written(peer, running, warm)
        began = time.time()
        filler.publish(count, rate=RATE, call=CALL)
        bench.wait_written(peer, running, warm + count)
        held = watch.collect()
        ended = time.time()
    finally:
        filler.close()
        running.stop()
    found = faults(bench, peer, held)
    if found:  # what was never acked took for ever
        return {"faults": found}
    waited = figures.latencies(filler.calls, held)[warm:]
    spent = figures.at(running.cpu, ended) - figures.at(running.cpu, began)
    return {
        "p50_ms": figures.percentile(waited, 0.5) * 1000,
        "p99_ms": figures.percentile(waited, 0.99) * 1000,
        "max_ms": max(waited) * 1000,
        "slow_cpu_s_per_100k": spent / count * 100_000,
        "faults": found,
    }


def faults(bench: Bench, peer: Peer, held: figures.Curve) -> list[str]:
    """Return what is wrong: not written, not acked."""
    left = held[-1][1] if held else -1
    found = [f"{left:g} messages were not acked"] if left else []
    return found + bench.target.faults(peer)
