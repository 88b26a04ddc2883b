"""A sink around another, with a store beside it that a thread of its own keeps."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from aggregator.backoff import Backoff
from aggregator.keeper import Keeper
from aggregator.sinks.base import Counting, Knowing

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aggregator.clock import Clock
    from aggregator.metrics import Metrics
    from aggregator.sinks.base import Sink

#: Pauses between tries to reach a store that is away.
BACKOFF = Backoff(0.2, 5.0)
#: How long the end waits for what is on its way to the store.
LAST_SECONDS = 5.0


class Store(Protocol):
    """What is let go of at the end."""

    def close(self) -> None:
        """Close all connections."""
        ...


class Kept(Protocol):
    """What the thread works on."""

    def open(self) -> None:
        """Open the store, where it answers."""
        ...

    def step(self) -> float:
        """Do what is due; return when there is more to do (monotonic)."""
        ...

    def flush(self) -> None:
        """Pass on what is left: the process ends."""
        ...


class SinkBesideStore:
    """``limits`` are those of the sink that it surrounds; who inherits writes, and sets ``_kept``."""

    _kept: Kept

    def __init__(self, sink: Sink, store: Store, name: str, clock: Clock) -> None:
        self.limits = sink.limits
        self._sink = sink
        self._store = store
        self._keeper = Keeper(name, clock)

    def open(self) -> None:
        """Open the sink; at first the store too, whose thread starts here."""
        self._sink.open()
        if not self._keeper.started:
            self._kept.open()
            self._keeper.start(self._kept.step, self._kept.flush)

    def close(self) -> None:
        """Pass on what is left, for some seconds at most, and let go of everything."""
        self._keeper.close(LAST_SECONDS)
        with suppress(Exception):
            self._store.close()
        self._sink.close()

    def known(self, ids: Sequence[str]) -> Collection[str]:
        """Ask the sink; one that cannot be asked knows none."""
        return self._sink.known(ids) if isinstance(self._sink, Knowing) else ()

    def where(self) -> str:
        """Say where the sink writes."""
        return self._sink.where()

    def count_in(self, metrics: Metrics) -> None:
        """Hand the process's metrics to the sink."""
        if isinstance(self._sink, Counting):
            self._sink.count_in(metrics)
