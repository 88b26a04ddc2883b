"""Requests of items that may kill the process: their order, and when one of them has its turn.

A pure state machine, used by :class:`aggregator.outbox.Outbox` alone. The broker's count is all that
outlives the process: what is unacked when it dies is counted once more, culprit and innocents alike.
"""

from __future__ import annotations

from hashlib import blake2b
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.request import Request

#: Seconds that the first isolated request lets others go first, where these never end.
PATIENCE = 1.0
#: Seconds for others between two isolated requests.
GAP = 0.05


class Isolation:
    """Isolated requests. True while there is one, under way or not.

    ``under_way``: the one that is being sent. ``turn``: from then on others wait for it (monotonic
    seconds).
    """

    def __init__(self) -> None:
        self._due: list[tuple[int, bytes, int, Request]] = []
        self._later: list[tuple[float, int, Request]] = []
        self._ticket = count()
        self.under_way: Request | None = None
        self.turn = inf

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._due or self._later or self.under_way)

    def __iter__(self) -> Iterator[Request]:
        """Yield those that wait."""
        yield from (entry[3] for entry in self._due)
        yield from (entry[2] for entry in self._later)

    def put(self, request: Request, when: float) -> None:
        """Take a request that may leave from ``when`` on."""
        heappush(self._later, (when, next(self._ticket), request))

    def is_due(self, now: float) -> bool:
        """Whether one may leave, as far as others let it. What a lost link has emptied is none."""
        while self._later and self._later[0][0] <= now:
            when, _, request = heappop(self._later)
            if request.items:
                heappush(self._due, (request.delivered, _place(request), next(self._ticket), request))
                self.turn = min(self.turn, when + PATIENCE)
        while self._due and not self._due[0][-1].items:
            heappop(self._due)
        if not self._due:
            self.turn = inf
        return bool(self._due)

    @property
    def wake_at(self) -> float:
        """When the next one is due, or where one is, when its turn comes; ``inf`` for never."""
        if self._due:
            return self.turn
        return self._later[0][0] if self._later else inf

    def take(self, max_bytes: float = inf) -> Request:
        """Send the next one, in the company that it may have; :meth:`is_due` said that there is one."""
        request = self.under_way = heappop(self._due)[-1]
        while self._due and len(request.items) < request.company:
            delivered, _, _, other = self._due[0]
            room = min(request.company, other.company) - len(request.items) - len(other.items)
            if delivered != request.delivered or room < 0 or request.size + other.size > max_bytes:
                break
            heappop(self._due)
            request.items += other.items
            request.size += other.size
        return request

    def end(self, request: Request, now: float) -> None:
        """Note that a request is not under way any more; if it is another one, nothing happens."""
        if request is self.under_way:
            self.under_way = None
            self.turn = now + GAP if self._due else inf

    @property
    def untried(self) -> bool:
        """Whether there is one that was not sent yet, or has no answer: the next may be what kills."""
        under_way = (self.under_way,) if self.under_way else ()
        return any(request.items and not request.attempts for request in (*self, *under_way))


def _place(request: Request) -> bytes:
    """Return where it stands among those that were delivered as often.

    A pass ends at the first culprit. So each second pass takes the order of the one before it
    backwards: with one culprit all innocents are out after the two. For several, each pair of passes has
    an order of its own, which no restart changes.
    """
    passes, backwards = divmod(request.delivered, 2)
    digest = blake2b(digest_size=8, salt=passes.to_bytes(8))
    for body in sorted(delivery.body for delivery in request.items[0].deliveries):
        digest.update(body)
    if request.items[0].fingerprint:
        digest.update(request.items[0].id.encode("utf-8", "surrogatepass"))
    place = digest.digest()
    return bytes(255 - byte for byte in place) if backwards else place
