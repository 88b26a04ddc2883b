"""Items on their way to the sink: packed into requests, retried, bisected. A pure state machine.

Batches go in, requests come out; verdicts go in, final items come out. Whatever is not final stays
here. The owner holds a lock around every call; times are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count, groupby
from math import inf
from typing import TYPE_CHECKING

from aggregator.backoff import Backoff
from aggregator.concurrency import Concurrency
from aggregator.delivery import Aggregate
from aggregator.errors import (
    RequestRefusedError,
    RequestTooLargeError,
    SinkRaisedError,
    SinkUnavailableError,
)
from aggregator.gate import Gate
from aggregator.isolation import Isolation
from aggregator.request import FINAL, Final, Outcome, Request
from aggregator.sinks.base import Fate, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from aggregator.delivery import Item

#: Each request that fits lets the bound grow by this fraction of itself, once a larger one did not fit:
#: where the sink's limit stays as it is, that is found out again once in some seven hundred requests.
GROWTH = 1024
#: So often an item may fail by itself, once patience is at its end, before it is given up.
LONE_FAILURES = 5

_FREE = object()


class Outbox:
    """Packs items into requests of at most ``max_items`` and ``max_bytes``; keeps what is not final.

    A request that is not full waits ``linger`` seconds for more, so that ten thousand small groups
    are not ten thousand requests. Two requests under way never hold the same given id: the second
    item waits, or an older write could overtake a newer one. What the sink puts off for ``patience``
    seconds, while it takes others, is final: it would take its route down with it.
    """

    def __init__(
        self,
        *,
        max_items: int,
        max_bytes: int,
        linger: float = 0.0,
        backoff: Backoff | None = None,
        patience: float = inf,
        concurrency: Concurrency | None = None,
    ) -> None:
        self._max_items = max_items
        self._max_bytes = self._most_bytes = max_bytes
        self._linger = linger
        self._backoff = backoff or Backoff()
        self._patience = patience
        self.gate = Gate(self._backoff)
        self.concurrency = concurrency or Concurrency(inf)
        self._ready: deque[Request] = deque()  # never sent, may be merged
        self._ready_items = 0
        self._later: list[tuple[float, int, Request]] = []  # retries, halves, freed items: go as they are
        self.isolation = Isolation()
        self._ticket = count()
        self._busy: dict[str, deque[Item] | None] = {}
        self.pending = 0
        self.bytes = 0
        self.retries = 0

    def offer(self, items: Sequence[Item], size: int, now: float) -> None:
        """Take the items of a completed batch; ``size`` is the sum of their bytes."""
        self.pending += len(items)
        self.bytes += size
        if len(items) <= self._max_items and size <= self._max_bytes:
            self._enqueue(Request(list(items), size, now))
            return
        for request in self._cut(items, now):
            self._enqueue(request)

    @property
    def max_bytes(self) -> int:
        """What a request may hold; less than at first once the sink has found one too large."""
        return self._max_bytes

    @property
    def max_items(self) -> int:
        """How many items a request may hold."""
        return self._max_items

    def isolate(self, item: Item, delivered: int, now: float, company: int = 1) -> None:
        """Take an item that is to be sent alone, while nothing else is under way.

        ``delivered``: how often it was handed out before: of several the one with the least goes first.
        ``company``: how many of those that were handed out as often may be sent together.
        """
        while self._ready:  # whatever of its id came before goes before it
            earlier = self._pack()
            if earlier.items:
                self._push(earlier, now)
        self.pending += 1
        self.bytes += item.size
        request = Request([item], item.size, now)
        request.delivered = delivered
        request.company = min(company, self._max_items)
        self._admit(request, request.items)
        if request.items:
            self.isolation.put(request, now)

    def take(self, now: float, *, hurry: bool = False, quiet: bool = True) -> Request | None:
        """Return the next request to send, or None. ``hurry``: linger for nothing.

        ``quiet``: everything that was sent before is concluded, so that an isolated request may go.
        """
        if self.concurrency.full:
            return None
        isolation = self.isolation
        if isolation and (isolation.under_way is not None or self._is_isolated_next(now)):
            return self._take_isolated(now) if quiet and self.gate.passes(now) else None
        while self.gate.passes(now):
            fresh = bool(self._ready) and (hurry or now >= self._linger_until())
            # the trial of a shut gate is one that has not failed: else an item that always fails would
            # keep it shut for all
            if self._later and self._later[0][0] <= now and not (fresh and self.gate.shut):
                request = heappop(self._later)[2]
            elif fresh:
                request = self._pack()
            else:
                return None
            if request.items:
                self._leave(request, now)
                return request
        return None

    def wake_at(self, now: float = -inf, *, quiet: bool = True) -> float:
        """Return when :meth:`take` may have something though nothing else happens; ``inf`` for never."""
        if self.concurrency.full:
            return inf  # whoever ends what is under way looks again
        isolation, gate = self.isolation, self.gate
        if not isolation:
            return self._plain_at()
        if isolation.under_way is not None:
            return inf
        if self._is_isolated_next(now):  # whoever ends what is under way looks again
            return max(now, gate.wake_at if gate.shut else now) if quiet else inf
        if gate.shut and isolation.is_due(now):
            return self._plain_at()
        return min(self._plain_at(), max(isolation.wake_at, gate.wake_at if gate.shut else now))

    def _plain_at(self) -> float:
        later = self._later[0][0] if self._later else inf
        if not self._ready and later == inf:
            return inf
        when = min(later, self._linger_until() if self._ready else inf)
        return max(when, self.gate.wake_at) if self.gate.shut else when

    def resolve(
        self,
        request: Request,
        verdicts: Sequence[Verdict] | None,
        now: float,
        held: Collection[Item] = (),
    ) -> Outcome:
        """Take the sink's verdicts, one for each item (None: all written); return what is final.

        ``held``: of those that are put off, the ones that their source keeps meanwhile.
        """
        self._answered(request, now, throttled=_throttled(verdicts or ()))
        if verdicts is None:
            self.gate.succeeded(now)
            self._fitted(request.size)
            self._finish(request.items, request.size, now)
            return Outcome(request.items, [])
        written: list[Item] = []
        others: list[Final] = []
        again: dict[float, list[Item]] = {}  # by how long they have to wait
        blocked = False
        hopeless = self._is_hopeless(request, now)
        for item, verdict in zip(request.items, verdicts, strict=True):
            if verdict.fate is Fate.WRITTEN and not verdict.reason:
                written.append(item)
            elif verdict.fate in FINAL:
                others.append(Final(item, verdict))
            elif item in held:
                others.append(Final(item, replace(verdict, fate=Fate.BLOCKED)))
            elif hopeless and verdict.fate is Fate.RETRY:
                others.append(Final(item, _exhausted(verdict.reason, verdict.status)))
            else:
                again.setdefault(verdict.after, []).append(item)
                blocked = blocked or verdict.fate is Fate.BLOCKED
        for after, items in again.items():
            self._retry(request, items, now, after)
        if blocked or not (written or others):
            self.gate.failed(now)
        else:
            self.gate.succeeded(now)
            self._fitted(request.size)
        final = [*written, *(item for item, _ in others)]
        self._finish(final, sum(item.size for item in final), now)
        return Outcome(written, others)

    def fail(self, request: Request, error: Exception, now: float) -> Outcome:
        """Take a failure of the whole request; return what is final by it."""
        raised = isinstance(error, SinkRaisedError)
        # other failures say nothing of the sink's speed
        throttled = isinstance(error, SinkUnavailableError) and not raised
        self._answered(request, now, throttled=throttled or None)
        if not isinstance(error, RequestTooLargeError | RequestRefusedError):
            if raised and len(request.items) == 1 and self._is_hopeless(request, now):
                self.gate.failed(now)
                self._finish(request.items, request.size, now)
                return Outcome([], [Final(request.items[0], _exhausted(type(error).__name__))])
            for items in _halves(request.items) if raised and request.attempts else (request.items,):
                self._retry(request, items, now)
            self.gate.failed(now)
            return Outcome([], [])
        self.gate.succeeded(now)  # it answered
        single = request.items[0] if len(request.items) == 1 else None
        if isinstance(error, RequestTooLargeError):
            if single is None:
                self._max_bytes = max(1, min(self._max_bytes, request.size // 2))
            elif isinstance(single, Aggregate) and single.divisible:
                self._max_bytes = max(1, min(self._max_bytes, len(single.document) // 2))
                self._unmake(request, single, now)
                return Outcome([], [])
        if single is None:
            self._halve(request, now)
            return Outcome([], [])
        verdict = _last_word(error)
        self._finish(request.items, request.size, now)
        return Outcome([], [Final(item, verdict) for item in request.items])

    def refuse(self, request: Request, refused: list[Final], now: float) -> Outcome:
        """Take out of a request what cannot become a document; the rest is sent."""
        gone = {id(final.item) for final in refused}
        leaving = [item for item in request.items if id(item) in gone]
        size = sum(item.size for item in leaving)
        request.items = [item for item in request.items if id(item) not in gone]
        request.size -= size
        if not request.items:
            self._withdraw(request, now)
        self._finish(leaving, size, now)
        return Outcome([], refused)

    def exchange(self, request: Request, made: Mapping[Item, Sequence[Item]], now: float) -> None:
        """Put the items that groups have become in their place, none if there are none.

        Their ids are known only now: an item whose id is under way waits behind it.
        """
        items: list[Item] = []
        for item in request.items:
            items += made.get(item, (item,))
        new = [item for parts in made.values() for item in parts]
        size = sum(item.size for item in new) - sum(item.size for item in made)
        self.pending += len(new) - len(made)
        self.bytes += size
        request.items = items
        request.size += size
        self._admit(request, new)
        self._release(made, now)
        if not request.items:
            self._withdraw(request, -inf)

    def put_back(self, request: Request, keep: int, now: float) -> None:
        """Leave a request its first ``keep`` items; the others go in further ones."""
        rest = request.items[keep:]
        request.items = request.items[:keep]
        for part in self._cut(rest, request.since):
            request.size -= part.size
            self._push(part.like(request), now)

    def drop(self, dead: Iterable[Item]) -> None:
        """Take items out that go back to the broker. Those under way stay until their verdict."""
        gone = {id(item) for item in dead}
        if not gone:
            return
        for behind in self._busy.values():
            if behind:
                self._left([behind_item for behind_item in behind if id(behind_item) in gone])
                kept = [item for item in behind if id(item) not in gone]
                behind.clear()
                behind.extend(kept)
        for request in self._ready:
            self._ready_items -= len(self._part(request, gone))
        for request in (*(entry[2] for entry in self._later), *self.isolation):
            self._release(self._part(request, gone), -inf)

    def waiting(self) -> list[Item]:
        """Return the items that are here and not under way."""
        queued = (*self._ready, *(entry[2] for entry in self._later), *self.isolation)
        behind = (waiting for waiting in self._busy.values() if waiting)
        return [*(i for request in queued for i in request.items), *(i for items in behind for i in items)]

    def _enqueue(self, request: Request) -> None:
        self._ready.append(request)
        self._ready_items += len(request.items)

    def _is_isolated_next(self, now: float) -> bool:
        """Whether others leave no more: none is left, or they have had their time.

        A sink that fails is tried with others, as long as there are any.
        """
        if not self.isolation.is_due(now):
            return False
        others = bool(self._ready or (self._later and self._later[0][0] <= now))
        return not others or (now >= self.isolation.turn and not self.gate.shut)

    def _take_isolated(self, now: float) -> Request | None:
        if self.isolation.under_way is not None:
            return None
        request = self.isolation.take(self._max_bytes)
        self._leave(request, now)
        return request

    def _leave(self, request: Request, now: float) -> None:
        request.left = now
        self.gate.leave()
        self.concurrency.leave()

    def _answered(self, request: Request, now: float, *, throttled: bool | None) -> None:
        self.isolation.end(request, now)
        self.concurrency.answered(request.left, now, len(request.items), throttled=throttled)

    def _withdraw(self, request: Request, now: float) -> None:
        """Note that nothing of a request reaches the sink."""
        self.gate.withdrawn()
        self.concurrency.ended()
        self.isolation.end(request, now)

    def _linger_until(self) -> float:
        if self._ready_items >= self._max_items:
            return -inf
        return self._ready[0].since + self._linger

    def _pack(self) -> Request:
        request = self._ready.popleft()
        while self._ready:
            following = self._ready[0]
            if len(request.items) + len(following.items) > self._max_items:
                break
            if request.size + following.size > self._max_bytes:
                break
            request.items += self._ready.popleft().items
            request.size += following.size
        self._ready_items -= len(request.items)
        self._admit(request, request.items)
        return request

    def _admit(self, request: Request, items: Sequence[Item]) -> None:
        """Enter the ids of a request's items; those whose id is under way leave it, and wait."""
        busy, refused = self._busy, False
        for item in items:
            if not item.fingerprint:
                continue
            behind = busy.get(item.id, _FREE)
            if behind is _FREE:
                busy[item.id] = None
                continue
            refused = True
            if behind is None:
                busy[item.id] = deque((item,))
            else:
                behind.append(item)  # type: ignore[attr-defined]
        if refused:
            waiting = {id(item) for items in busy.values() if items for item in items}
            request.items = [item for item in request.items if id(item) not in waiting]
            request.size = sum(item.size for item in request.items)

    def _retry(self, request: Request, items: list[Item], now: float, after: float = 0.0) -> None:
        again = Request(items, sum(item.size for item in items), request.since)
        again.delivered = request.delivered
        again.attempts = request.attempts + 1
        again.first_failed = now if request.first_failed is None else request.first_failed
        again.last_failed = now
        again.lone = request.lone + 1 if self.gate.answered > request.last_failed else request.lone
        self.retries += len(items)
        self._push(again, now + max(self._backoff.pause(again.attempts), min(after, self._patience)))

    def _halve(self, request: Request, now: float) -> None:
        for items in _halves(request.items):
            self._push(Request(items, sum(item.size for item in items), request.since).like(request), now)

    def _unmake(self, request: Request, item: Aggregate, now: float) -> None:
        """Have a document that is too large made again, as several."""
        self._release((item,), now)
        before = item.size
        item.unmake()
        item.batch.documents -= 1
        self.bytes += item.size - before
        again = Request([item], item.size, request.since).like(request)
        self._admit(again, again.items)
        if again.items:
            self._push(again, now)

    def _fitted(self, size: int) -> None:
        """Feel the way back to larger requests: what was too large once need not be so for ever."""
        if self._max_bytes < self._most_bytes and 2 * size > self._max_bytes:
            fits = max(self._max_bytes, size)
            self._max_bytes = min(self._most_bytes, fits + fits // GROWTH + 1)

    def _finish(self, items: Sequence[Item], size: int, now: float) -> None:
        self.pending -= len(items)
        self.bytes -= size
        self._release(items, now)

    def _left(self, items: Sequence[Item]) -> int:
        size = sum(item.size for item in items)
        self.pending -= len(items)
        self.bytes -= size
        return size

    def _part(self, request: Request, gone: set[int]) -> list[Item]:
        leaving = [item for item in request.items if id(item) in gone]
        if leaving:
            request.items = [item for item in request.items if id(item) not in gone]
            request.size -= self._left(leaving)
        return leaving

    def _release(self, items: Iterable[Item], now: float) -> None:
        """Give the items' ids free; those that wait behind them have their turn, together."""
        busy = self._busy
        freed: list[Item] = []
        for item in items:
            if item.fingerprint and (behind := busy.pop(item.id, None)):
                freed.append(behind.popleft())
                busy[item.id] = behind or None
        for delivered, alike in groupby(freed, _delivered):
            for request in self._cut(alike, now):
                request.delivered = delivered
                self._push(request, now)

    def _push(self, request: Request, when: float) -> None:
        if request.delivered:
            self.isolation.put(request, when)
            return
        heappush(self._later, (when, next(self._ticket), request))

    def _cut(self, items: Iterable[Item], now: float) -> Iterator[Request]:
        """Yield requests of these items that each keep the bounds, but for a single larger item."""
        part: list[Item] = []
        size = 0
        for item in items:
            if part and (len(part) == self._max_items or size + item.size > self._max_bytes):
                yield Request(part, size, now)
                part, size = [], 0
            part.append(item)
            size += item.size
        if part:
            yield Request(part, size, now)

    def _is_hopeless(self, request: Request, now: float) -> bool:
        first = request.first_failed
        return first is not None and now - first >= self._patience and request.lone >= LONE_FAILURES


def _throttled(verdicts: Sequence[Verdict]) -> bool | None:
    """Return whether it was too much for the sink; None where a block says nothing of that.

    What is put off by itself, for so many seconds, says nothing of the others.
    """
    fates = {verdict.fate for verdict in verdicts if not verdict.after}
    return None if Fate.BLOCKED in fates else Fate.RETRY in fates


def _halves(items: list[Item]) -> tuple[list[Item], ...]:
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else (items,)


def _delivered(item: Item) -> int:
    batch = getattr(item, "batch", None)
    return batch.delivered if batch is not None else 0


def _exhausted(detail: str, status: int | None = None) -> Verdict:
    return Verdict(Fate.DEAD_LETTER, "retries-exhausted", detail, status)


def _last_word(error: RequestTooLargeError | RequestRefusedError) -> Verdict:
    if isinstance(error, RequestTooLargeError):
        return Verdict(Fate.DEAD_LETTER, "too-large", str(error), 413)
    return Verdict(Fate.DEAD_LETTER, error.reason, error.detail, error.status)
