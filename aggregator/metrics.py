"""The catalogue of metrics.

Everything is counted per batch, request or settlement, never per message; what is held is read when
it is asked for.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from aggregator.version import version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Literal

    from prometheus_client.metrics_core import Metric

    #: How a gauge of several processes is read.
    Several = Literal["livesum", "livemax"]

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
BYTES = (256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 10_485_760, 52_428_800)
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
#: Verdicts that are shown from the start: a rate sees nothing of a counter's first value.
FREQUENT = ("written", "duplicate", "dead_lettered", "given_back")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Every metric of a process, each by route but for those of pushes.

    ``shared``: they stand in files that another process reads, so that what is held has to be written
    there before it is read (:meth:`refresh`). Gauges of several processes are added up, or the largest holds.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, shared: bool = False) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._followed: dict[Gauge, Callable[[], float]] | None = {} if shared else None
        route = ("route",)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"aggregator_{name}", text, (*route, *labels), registry=self.registry)

        def gauge(name: str, text: str, *labels: str, several: Several = "livesum") -> Gauge:
            return Gauge(
                f"aggregator_{name}",
                text,
                (*route, *labels),
                registry=self.registry,
                multiprocess_mode=several,
            )

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"aggregator_{name}", text, route, buckets=buckets, registry=self.registry)

        self.received = counter("received_total", "Deliveries taken from the queue.")
        self.deliveries = counter("deliveries_total", "Deliveries by what became of them.", "verdict")
        self.batches = counter(
            "batches_total",
            "Completed groups by what completed them; complete: the key is closed.",
            "trigger",
            "complete",
        )
        self.batch_messages = histogram("batch_messages", "Messages in a completed group.", COUNTS)
        self.batch_bytes = histogram("batch_bytes", "Bytes of bodies in a completed group.", BYTES)
        self.batch_fill = histogram(
            "batch_fill_ratio",
            "A group that is done with, as a share of a full one.",
            SHARES,
        )
        self.batch_age = histogram("batch_age_seconds", "From a group's first message to its end.", SECONDS)
        self.batch_queue_seconds = histogram(
            "batch_queue_seconds", "From a group's end to its first request.", SECONDS
        )
        self.batch_write_seconds = histogram(
            "batch_write_seconds", "From a group's first request to the last word on it.", SECONDS
        )
        self.requests = counter("requests_total", "Requests to the sink by their outcome.", "outcome")
        self.request_items = histogram("request_items", "Items in a request to the sink.", COUNTS)
        self.flush_seconds = histogram("flush_seconds", "Duration of a request to the sink.", SECONDS)
        self.ack_lag_seconds = histogram(
            "ack_lag_seconds", "From the last word on deliveries to their ack on the wire.", SECONDS
        )
        self.diverted = counter("diverted_total", "Items written elsewhere than asked for.", "reason")
        self.retries = counter("retries_total", "Items that were sent again.")
        self.dead_letters = counter("dead_letters_total", "Messages refused for good.", "reason")
        self.held_messages = gauge("held_messages", "Deliveries in open groups.")
        self.held_groups = gauge("held_groups", "Open groups.")
        self.held_bytes = gauge("held_bytes", "Bytes of bodies in open groups and on their way.")
        self.held_bytes_limit = gauge("held_bytes_limit", "Bytes held from which on nothing more is read.")
        self.oldest_group = gauge(
            "oldest_group_seconds", "Age of the oldest open group; 0 without one.", several="livemax"
        )
        self.outgoing_messages = gauge("outgoing_items", "Items that wait for the sink's last word.")
        self.requests_under_way = gauge("requests_under_way", "Requests that the sink has not answered.")
        self.requests_limit = gauge("requests_limit", "Requests that may be under way at once.")
        self.last_write = gauge(
            "last_write_timestamp_seconds",
            "When the sink last took something, in unix seconds; 0 before that.",
            several="livemax",
        )
        self.refused_ratio = gauge(
            "refused_ratio", "Share of recent messages that were refused.", several="livemax"
        )
        self.refused_ratio_limit = gauge(
            "refused_ratio_limit", "Above this share the breaker stops the route.", several="livemax"
        )
        self.dead_letters_pending = gauge("dead_letters_pending", "Refused messages not confirmed yet.")
        self.route_state = gauge(
            "route_state", "1 for the state that the route is in; of several processes, how many.", "state"
        )
        self.route_quiet = gauge("route_quiet", "1 while the route rests in its quiet hours.")
        self.workers = gauge("workers", "Workers by state.", "state")
        self.queue_messages = gauge(
            "queue_messages",
            "Messages in the queue by state, as its broker tells every ten seconds.",
            "state",
            several="livemax",
        )
        self.links_lost = counter("links_lost_total", "Connections to the broker that were lost.")
        self.seen_ids = Counter(
            "aggregator_seen_ids_total",
            "Ids by what the check for duplicates did with them.",
            ("outcome",),
            registry=self.registry,
        )
        # a sink knows no route: one of several apps counts for itself
        self.pushes = Counter(
            "aggregator_pushes_total",
            "Pushes by what a gateway, or the check before it, has said; those sent again count again.",
            ("gateway", "app", "outcome", "reason"),
            registry=self.registry,
        )

    def watch_control(self, listens: Callable[[], bool]) -> None:
        """Show whether commands reach the process, whenever that is asked for."""
        gauge = Gauge(
            "aggregator_control_listens",
            "1 while commands reach the process; of several processes, how many they reach.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.follow(gauge, lambda: float(listens()))

    def follow(self, gauge: Gauge, function: Callable[[], float]) -> None:
        """Have a gauge read from a function whenever it is asked for."""
        if self._followed is None:
            gauge.set_function(function)
        else:
            self._followed[gauge] = function

    def refresh(self) -> None:
        """Read the gauges that follow a function, for whoever looks from another process."""
        for gauge, function in (self._followed or {}).items():
            gauge.set(function())

    def overview(self) -> Iterator[Metric]:
        """Yield those that say in a few numbers how routes fare; all of them would cost twenty times that."""
        for each in (
            self.received,
            self.deliveries,
            self.dead_letters,
            self.held_messages,
            self.held_groups,
            self.outgoing_messages,
            self.route_state,
        ):
            yield from each.collect()

    def totals(self) -> dict[str, dict[str, int]]:
        """Return how many deliveries ended with which verdict, by route."""
        return totals(self.deliveries.collect())

    def counters(self) -> list[Metric]:
        """Return what is counted of messages and batches, by route."""
        counters = (self.received, self.deliveries, self.batches, self.retries, self.dead_letters)
        return [metric for counter in counters for metric in counter.collect()]

    def route(self, name: str) -> RouteMetrics:
        """Return the metrics of one route."""
        return RouteMetrics(self, name)


def describe_process(registry: CollectorRegistry) -> None:
    """Add what holds for the process itself: its version, memory, CPU seconds, files and start."""
    Gauge(
        "aggregator_build_info",
        "1 for the version that runs, and its Python's.",
        ("version", "python"),
        registry=registry,
    ).labels(version(), platform.python_version()).set(1)
    ProcessCollector(registry=registry)


def totals(metrics: Iterable[Metric]) -> dict[str, dict[str, int]]:
    """Return how many deliveries ended with which verdict, by route, from whatever was collected.

    A verdict that no delivery had is left out.
    """
    found: dict[str, dict[str, int]] = {}
    for metric in metrics:
        for sample in metric.samples:
            if sample.name == "aggregator_deliveries_total" and sample.value:
                labels = sample.labels
                found.setdefault(labels["route"], {})[labels["verdict"]] = int(sample.value)
    return found


class RouteMetrics:
    """The metrics of one route, with their labels looked up once."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self.received = metrics.received.labels(name)
        self.batch_messages = metrics.batch_messages.labels(name)
        self.batch_bytes = metrics.batch_bytes.labels(name)
        self.batch_fill = metrics.batch_fill.labels(name)
        self.batch_age = metrics.batch_age.labels(name)
        self.batch_queue_seconds = metrics.batch_queue_seconds.labels(name)
        self.batch_write_seconds = metrics.batch_write_seconds.labels(name)
        self.request_items = metrics.request_items.labels(name)
        self.flush_seconds = metrics.flush_seconds.labels(name)
        self.ack_lag_seconds = metrics.ack_lag_seconds.labels(name)
        self.retries = metrics.retries.labels(name)
        self.links_lost = metrics.links_lost.labels(name)
        self.last_write = metrics.last_write.labels(name)
        for verdict in FREQUENT:
            metrics.deliveries.labels(name, verdict)
        metrics.requests.labels(name, "answered")

    def batch(self, trigger: str, complete: bool, messages: int, size: int, age: float) -> None:
        """Count a completed group."""
        self._metrics.batches.labels(self._name, trigger, "true" if complete else "false").inc()
        self.batch_messages.observe(messages)
        self.batch_bytes.observe(size)
        self.batch_age.observe(age)

    def concluded(self, queueing: float, writing: float, fill: float | None = None) -> None:
        """Observe how long a group that is done with has waited, and been written, in seconds.

        ``fill``: its share of what would have made it full; None where nothing does.
        """
        if fill is not None:
            self.batch_fill.observe(fill)
        self.batch_queue_seconds.observe(queueing)
        self.batch_write_seconds.observe(writing)

    def settled(self, verdict: str, deliveries: int) -> None:
        """Count deliveries by what became of them."""
        if deliveries:
            self._metrics.deliveries.labels(self._name, verdict).inc(deliveries)

    def request(self, outcome: str, items: int, seconds: float) -> None:
        """Count a request to the sink."""
        self._metrics.requests.labels(self._name, outcome).inc()
        self.request_items.observe(items)
        self.flush_seconds.observe(seconds)

    def divert(self, reason: str) -> None:
        """Count an item that was written elsewhere than asked for."""
        self._metrics.diverted.labels(self._name, reason).inc()

    def dead_letter(self, reason: str, messages: int) -> None:
        """Count refused messages."""
        self._metrics.dead_letters.labels(self._name, reason).inc(messages)

    def state(self, now: str, states: tuple[str, ...]) -> None:
        """Show the route's state among all that it may have."""
        for state in states:
            self._metrics.route_state.labels(self._name, state).set(state == now)

    def queue(self, states: Mapping[str, int]) -> None:
        """Show how many messages are in the queue, by state."""
        for state, number in states.items():
            self._metrics.queue_messages.labels(self._name, state).set(number)

    def watch(self, gauges: Mapping[str, Callable[[], float]]) -> None:
        """Read gauges (by attribute of :class:`Metrics`) from functions whenever they are scraped."""
        for name, function in gauges.items():
            self._metrics.follow(getattr(self._metrics, name).labels(self._name), function)

    def watch_workers(self, states: tuple[str, ...], count: Callable[[str], int]) -> None:
        """Count workers by state whenever that is scraped."""
        for state in states:
            gauge = self._metrics.workers.labels(self._name, state)
            self._metrics.follow(gauge, lambda state=state: count(state))  # type: ignore[misc]
