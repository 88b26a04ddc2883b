"""Which route a name belongs to: patterns in an order, of which the first that fits wins.

At the broker each pattern is a binding of a topic exchange. There every binding that fits takes a copy,
so a pattern that overlaps an earlier one of another route is bound to a further exchange, which is
asked only for what the first one has no binding for (its alternate exchange): the first wins there too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aggregator.topic import matches, overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Entry(NamedTuple):
    """One pattern; ``level`` counts the exchanges from 0."""

    pattern: str
    route: str
    queue: str
    level: int


@dataclass(frozen=True, slots=True)
class RouteMap:
    """The patterns in their order. Producers publish to ``exchange``, with the name as routing key."""

    exchange: str
    entries: tuple[Entry, ...] = ()

    def entry(self, name: str) -> Entry | None:
        """Return the first whose pattern takes the name; None if there is none."""
        return next((entry for entry in self.entries if matches(entry.pattern, name)), None)

    def queue(self, name: str) -> str:
        """Return the queue that messages of this name belong to. Raises ``LookupError`` if none does."""
        found = self.entry(name)
        if found is None:
            patterns = ", ".join(entry.pattern for entry in self.entries)
            raise LookupError(f"no pattern of the route map takes {name!r}; there are {patterns}")
        return found.queue

    @property
    def levels(self) -> int:
        """How many exchanges it takes."""
        return max((entry.level for entry in self.entries), default=0) + 1

    def exchange_of(self, level: int) -> str:
        """Return the name of an exchange."""
        return f"{self.exchange}.{level + 1}" if level else self.exchange


def route_map(exchange: str, patterns: Iterable[tuple[str, str, str]]) -> RouteMap:
    """Return the map of (pattern, route, queue) in their order."""
    entries: list[Entry] = []
    for pattern, route, queue in patterns:
        levels = [before.level for before in overlaps(pattern, route, entries)]
        entries.append(Entry(pattern, route, queue, max(levels, default=-1) + 1))
    return RouteMap(exchange, tuple(entries))


def overlaps(pattern: str, route: str, entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries of other routes that share a name with ``pattern``."""
    return [entry for entry in entries if entry.route != route and overlap(entry.pattern, pattern)]


def covered(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Return (entry, earlier one) where the earlier pattern takes every name of the later one."""
    return [
        (entry, before)
        for index, entry in enumerate(entries)
        for before in entries[:index]
        if covers(before.pattern, entry.pattern)
    ]


def covers(wide: str, narrow: str) -> bool:
    """Tell whether ``wide`` takes every name that ``narrow`` takes; never wrongly true."""
    return wide in {"#", narrow} or ("#" not in narrow and matches(wide, narrow))
