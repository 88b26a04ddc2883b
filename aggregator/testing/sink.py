"""A sink in memory: a store that takes ids, where the first of an id wins."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from aggregator.errors import SinkUnavailableError
from aggregator.sinks.base import DUPLICATE, WRITTEN, Fate, Limits
from aggregator.testing.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.delivery import Item
    from aggregator.sinks.base import Verdict

    Decide = Callable[[Sequence[Item]], Sequence[Verdict] | None]


class MemorySink:
    """``stored``: the documents by id, in the order of their writing. Two writes at once may come.

    ``decide(items)`` gives the verdicts, None for all written, or raises; :meth:`create` unless it is
    replaced. What it says is written is stored. ``before(items)`` looks at each request first.
    ``requests``: the ids of each. ``up``: whether :meth:`open` succeeds.
    What a route must never ask for is noted in ``faults``: an id twice in a request, or in two requests
    that are under way, and a probe during a write.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        limits: Limits | None = None,
        store: dict[str, bytes] | None = None,
    ) -> None:
        self.faults = Faults() if faults is None else faults
        self.limits = limits or Limits()
        self.stored = {} if store is None else store
        self.requests: list[list[str]] = []
        self.under_way: list[list[str]] = []
        self.up = True
        self.before: Callable[[Sequence[Item]], None] = lambda _items: None
        self.decide: Decide = self.create
        self._lock = Lock()

    def open(self) -> None:
        """Be there, or not. Raises ``SinkUnavailableError``."""
        self.faults.unless(not self.under_way, "probed while a write is under way")
        if not self.up:
            raise SinkUnavailableError("away")

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Store what is decided to be written, the first of an id alone; return the verdicts."""
        ids = [item.id for item in items]
        with self._lock:
            self.requests.append(ids)
            self._look_at(ids)
            self.under_way.append(ids)
        try:
            self.before(items)
            verdicts = self.decide(items)
        finally:
            with self._lock:
                self.under_way.remove(ids)
        with self._lock:
            self._store(items, verdicts)
        return verdicts

    def create(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Return the verdicts of a store that takes ids: what stands there already is a duplicate."""
        known: set[str] = set()
        verdicts = []
        for item in items:
            verdicts.append(DUPLICATE if item.id in self.stored or item.id in known else WRITTEN)
            known.add(item.id)
        return verdicts if DUPLICATE in verdicts else None

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return which of the ids stand in it."""
        return {name for name in ids if name in self.stored}

    def close(self) -> None:
        """Keep what is stored."""

    def where(self) -> str:
        """Say that it is in memory."""
        return "in memory"

    def _look_at(self, ids: Sequence[str]) -> None:
        busy = {key for others in self.under_way for key in others}
        self.faults.unless(len(set(ids)) == len(ids), f"one request, the same id twice: {ids}")
        self.faults.unless(not busy.intersection(ids), f"two requests under way with the same id: {ids}")

    def _store(self, items: Sequence[Item], verdicts: Sequence[Verdict] | None) -> None:
        fates = [Fate.WRITTEN] * len(items) if verdicts is None else [verdict.fate for verdict in verdicts]
        for item, fate in zip(items, fates, strict=False):  # too few of them is a fault to be played, too
            if fate is Fate.WRITTEN:
                self.stored.setdefault(item.id, item.document)
