"""What a live summary tells of each route, read from the metrics: nothing is counted for it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aggregator.standing import RouteState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from aggregator.history import BatchReport

#: Of several processes the worst state is shown: the first of these that one of them is in.
WORST_FIRST = tuple(
    state.value
    for state in (
        RouteState.STOPPED,
        RouteState.WAITING,
        RouteState.PAUSED,
        RouteState.PAUSING,
        RouteState.DRAINING,
        RouteState.RUNNING,
    )
)
#: Rates are those of so many seconds: calm, and soon true.
WINDOW_SECONDS = 5.0


@dataclass(slots=True)
class Figures:
    """One route at one moment. ``dead``: dead letters so far."""

    received: float = 0.0
    written: float = 0.0
    held: float = 0.0
    groups: float = 0.0
    outgoing: float = 0.0
    dead: float = 0.0
    states: set[str] = field(default_factory=set)

    @property
    def state(self) -> str:
        """Return the state, of several processes the worst."""
        return next((state for state in WORST_FIRST if state in self.states), RouteState.WAITING.value)


class Detail(NamedTuple):
    """What no metric holds: why a route does not run, and its last batch."""

    reason: str = ""
    last: BatchReport | None = None


_SUMMED = {
    "aggregator_received_total": "received",
    "aggregator_held_messages": "held",
    "aggregator_held_groups": "groups",
    "aggregator_outgoing_items": "outgoing",
    "aggregator_dead_letters_total": "dead",
}
_WRITTEN = frozenset({"written", "duplicate"})


def read(metrics: Iterable[Metric]) -> dict[str, Figures]:
    """Return the figures of each route from whatever was collected."""
    found: dict[str, Figures] = {}
    for metric in metrics:
        for sample in metric.samples:
            route = sample.labels.get("route")
            if route is None:
                continue
            figures = found.setdefault(route, Figures())
            if name := _SUMMED.get(sample.name):
                setattr(figures, name, getattr(figures, name) + sample.value)
            elif sample.name == "aggregator_deliveries_total" and sample.labels["verdict"] in _WRITTEN:
                figures.written += sample.value
            elif sample.name == "aggregator_route_state" and sample.value:
                figures.states.add(sample.labels["state"])
    return found


class Rates:
    """Messages a second, of the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, Figures]]] = deque()

    def add(self, now: float, figures: Mapping[str, Figures]) -> None:
        """Take figures of monotonic ``now``."""
        self._seen.append((now, figures))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_SECONDS:  # noqa: PLR2004 - two ends
            self._seen.popleft()

    def of(self, route: str) -> tuple[float, float]:
        """Return how many were received and written, each second."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        if last <= first or route not in after:
            return 0.0, 0.0
        old, new = before.get(route, Figures()), after[route]
        seconds = last - first
        # what a process that has died had counted may be missing for a moment
        return (
            max(0.0, new.received - old.received) / seconds,
            max(0.0, new.written - old.written) / seconds,
        )
