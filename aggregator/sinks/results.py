"""A sink whose words are told to those who have submitted the messages (:mod:`aggregator.results`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregator.clock import SYSTEM_CLOCK
from aggregator.results import Results
from aggregator.sinks.beside import BACKOFF, SinkBesideStore
from aggregator.stores.redis_url import ResultOptions, read_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aggregator.backoff import Backoff
    from aggregator.clock import Clock
    from aggregator.delivery import Item
    from aggregator.ports import Refused
    from aggregator.results import ResultStore
    from aggregator.sinks.base import Sink, Verdict


class ResultSink(SinkBesideStore):
    """Tells before each write, and after it."""

    def __init__(
        self, sink: Sink, store: ResultStore, *, backoff: Backoff = BACKOFF, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        super().__init__(sink, store, "results", clock)
        self.results = self._kept = Results(store, backoff=backoff, clock=clock, wake=self._keeper.wake)

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


def with_results(sink: Sink, url: str) -> ResultSink:
    """Return ``sink`` with the store that ``url`` names beside it; nothing connects yet.

    Raises ``ConfigurationError`` for ``results``.
    """
    server, options = read_url(url, ResultOptions, "results")
    from aggregator.stores.jobs_redis_client import RedisJobs  # noqa: PLC0415 - only who asks needs Redis

    return ResultSink(sink, RedisJobs(server, options))
