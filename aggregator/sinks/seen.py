"""A sink before which seen ids are sifted out: what was written before is a duplicate, and not sent.

It stands around any other sink, on the flush threads. Ids that the process made up at receipt are not
asked for: nobody can send them twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import SinkUnavailableError
from aggregator.seen import SeenIds
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate
from aggregator.sinks.beside import BACKOFF, SinkBesideStore
from aggregator.stores.redis_url import SeenOptions, read_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.backoff import Backoff
    from aggregator.clock import Clock
    from aggregator.delivery import Item
    from aggregator.metrics import Metrics
    from aggregator.seen import Filter, SeenStore
    from aggregator.sinks.base import Sink, Verdict

_IN_STORE = frozenset({Fate.WRITTEN, Fate.DUPLICATE})


class SeenSink(SinkBesideStore):
    """Asks before each write, and tells after it."""

    def __init__(
        self,
        sink: Sink,
        store: SeenStore,
        make_filter: Callable[[], Filter],
        *,
        interval: float = 1.0,
        backoff: Backoff = BACKOFF,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(sink, store, "seen-ids", clock)
        self._counter: Any = None
        #: what is known of ids
        self.ids = self._kept = SeenIds(
            store,
            make_filter,
            interval=interval,
            backoff=backoff,
            clock=clock,
            count=self._count,
            wake=self._keeper.wake,
        )

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Write those that are new; the others are duplicates."""
        ids = [item.id for item in items if item.fingerprint]
        known = self.ids.known(ids) if ids else set()
        if not known:
            verdicts = self._sink.write(items)
            self._note(items, verdicts)
            return verdicts
        new = [item for item in items if not (item.fingerprint and item.id in known)]
        answer = self._sink.write(new) if new else ()
        verdicts = answer if answer is not None else [WRITTEN] * len(new)
        if len(verdicts) != len(new):
            raise SinkUnavailableError(f"{len(verdicts)} verdicts for {len(new)} items")
        self._note(new, verdicts)
        of_new = iter(verdicts)
        return [DUPLICATE if item.fingerprint and item.id in known else next(of_new) for item in items]

    def count_in(self, metrics: Metrics) -> None:
        """Take the process's metrics, for the sink too."""
        self._counter = metrics.seen_ids
        super().count_in(metrics)

    def _note(self, items: Sequence[Item], verdicts: Sequence[Verdict] | None) -> None:
        if verdicts is None:
            written = [item.id for item in items if item.fingerprint]
        elif len(verdicts) != len(items):
            return  # whose they are is unknown: the caller sees it too
        else:
            written = [
                item.id
                for item, verdict in zip(items, verdicts, strict=True)
                if item.fingerprint and verdict.fate in _IN_STORE
            ]
        if written:
            self.ids.wrote(written)

    def _count(self, outcome: str, number: int) -> None:
        if self._counter is not None:
            self._counter.labels(outcome).inc(number)


def seen_options(url: str, name: str) -> tuple[Any, SeenOptions]:
    """Return the server and the options that ``seen`` of the route ``name`` gives.

    Raises ``ConfigurationError`` for the field ``seen``.
    """
    server, options = read_url(url, SeenOptions, "seen")
    return server, options.model_copy(update={"prefix": options.prefix or f"seen:{name}"})


def with_seen_ids(sink: Sink, url: str, name: str) -> Sink:
    """Return ``sink`` with the store of seen ids that ``url`` names before it; nothing connects yet.

    ``name``: the route's, which tells its ids from others'. Raises ``ConfigurationError`` for ``seen``.
    """
    server, options = seen_options(url, name)
    from aggregator.stores.seen_redis_client import RedisSeen  # noqa: PLC0415 - only who asks needs Redis

    store = RedisSeen(server, options)
    return SeenSink(sink, store, store.make_filter, interval=options.interval)
