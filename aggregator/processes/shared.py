"""Metrics of several processes, in prometheus-client's multiprocess mode: files that each maps to memory.

The files belong to a child's number, not to its process id: who is started again goes on counting
where the one before it was killed, and no file is left behind.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from aggregator.metrics import describe_process, totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric


def share(folder: str, number: int) -> None:
    """Have all metrics made from now on stand in this child's files."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def remove(folder: str, number: int) -> None:
    """Remove this child's files, and the folder with the last: the parent has gone, nobody else will."""
    for path in Path(folder).glob(f"*_{number}.db"):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # others have theirs in it
        Path(folder).rmdir()


class SharedMetrics:
    """What the parent knows: the children's metrics added up, and its own about them."""

    def __init__(self, folder: str) -> None:
        self.registry = CollectorRegistry()
        self.before_scrape: Callable[[], object] = dict
        """Has the children write down what they hold."""
        self._folder = folder
        self.restarts = Counter(
            "aggregator_process_restarts_total",
            "Processes started again, by what ended them.",
            ("cause",),
            registry=self.registry,
        )
        self.running = Gauge("aggregator_processes", "Processes that run.", registry=self.registry)
        describe_process(self.registry)
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the children's metrics."""
        self.before_scrape()
        return self._merged("*.db")

    def describe(self) -> Iterable[Metric]:
        """Return nothing: whoever registers this shall not ask the children."""
        return ()

    def totals(self) -> dict[str, dict[str, int]]:
        """Return how many deliveries ended with which verdict, by route, in all processes so far."""
        return totals(self.counters())

    def counters(self) -> Iterable[Metric]:
        """Return what is counted in all processes so far."""
        return self._merged("counter_*.db")

    def received(self, number: int) -> float:
        """Return how many deliveries a child and those before it with its number have taken."""
        return sum(
            sample.value
            for metric in self._merged(f"counter_{number}.db")
            for sample in metric.samples
            if sample.name == "aggregator_received_total"
        )

    def forget(self, number: int) -> None:
        """Let a dead child hold nothing any more; what it counted stays."""
        mark_process_dead(number, self._folder)  # type: ignore[no-untyped-call]

    def _merged(self, pattern: str) -> Iterable[Metric]:
        files = []
        for path in Path(self._folder).glob(pattern):
            with suppress(FileNotFoundError):
                if path.stat().st_size:  # just made, it has no content yet
                    files.append(str(path))
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged
