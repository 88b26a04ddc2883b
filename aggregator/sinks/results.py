"""A sink whose words are told to those who have submitted the messages (:mod:`aggregator.results`)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from aggregator.backoff import Backoff
from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import ConfigurationError
from aggregator.keeper import Keeper
from aggregator.results import Results
from aggregator.sinks.base import Counting
from aggregator.stores.redis_url import ResultOptions, read_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Item
    from aggregator.metrics import Metrics
    from aggregator.ports import Refused
    from aggregator.results import ResultStore
    from aggregator.sinks.base import Sink, Verdict

#: Pauses between tries to reach a store that is away.
BACKOFF = Backoff(0.2, 5.0)
#: How long the end waits for words that are on their way.
LAST_SECONDS = 5.0


class ResultSink:
    """Tells before each write, and after it. ``limits`` are those of the sink that it surrounds."""

    def __init__(
        self, sink: Sink, store: ResultStore, *, backoff: Backoff = BACKOFF, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.limits = sink.limits
        self._sink = sink
        self._store = store
        self._keeper = Keeper("results", clock)
        self.results = Results(store, backoff=backoff, clock=clock, wake=self._keeper.wake)

    def open(self) -> None:
        """Open the sink; at first the store too, whose thread starts here."""
        self._sink.open()
        if not self._keeper.started:
            self.results.open()
            self._keeper.start(self.results.step, self.results.flush)

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Write, and pass the verdicts on."""
        self.results.taken(items)
        verdicts = self._sink.write(items)
        if verdicts is None or len(verdicts) == len(items):
            self.results.answered(items, verdicts)
        return verdicts

    def dead_lettered(self, refused: Sequence[Refused]) -> None:
        """Tell of what is safe in the dead-letter queue. Called by its thread."""
        self.results.dead_lettered(refused)

    def close(self) -> None:
        """Tell what is left to be told, for some seconds at most, and let go of everything."""
        self._keeper.close(LAST_SECONDS)
        with suppress(Exception):
            self._store.close()
        self._sink.close()

    def where(self) -> str:
        """Say where the sink writes."""
        return self._sink.where()

    def count_in(self, metrics: Metrics) -> None:
        """Hand the process's metrics to the sink."""
        if isinstance(self._sink, Counting):
            self._sink.count_in(metrics)


def with_results(sink: Sink, url: str) -> ResultSink:
    """Return ``sink`` with the store that ``url`` names beside it; nothing connects yet.

    Raises ``ConfigurationError`` for ``results``.
    """
    server, options = read_url(url, ResultOptions, "results")
    try:
        from aggregator.stores.jobs_redis_client import RedisJobs  # noqa: PLC0415 - only who asks needs Redis
    except ImportError:
        problem = "the client for redis is missing; install it: pip install 'kombu-aggregator[redis]'"
        raise ConfigurationError("results", problem) from None
    return ResultSink(sink, RedisJobs(server, options))
