"""Which ids were written before, by whatever process: a store that knows, and a copy that doubts.

The store is shared, exact and a round trip away. The copy is a filter in this process: an id that is
not in it is new as far as this process knows; one that is may be new all the same, so the store is
asked. Ids enter after the sink's word on them, never before: whatever is lost on the way, an id is
asked for once more and written once more, and the sink's own check of ids has the last word.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import StoreUnavailableError
from aggregator.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aggregator.backoff import Backoff
    from aggregator.clock import Clock

#: Spans that are complete, beside the one that is being filled. The oldest is forgotten as a whole.
SPANS = 2
#: Ids in one call of the store.
AT_ONCE = 1000
#: Ids that are written and wait to be entered; beyond them the oldest are given up.
MOST_PENDING = 100_000
#: Asked for what is new after this, the store says where it stands, and nothing else.
HERE = -1
#: Pieces of the store that are read between two looks at what is new, while the copy is made.
PIECES = 20

log = structlog.get_logger()


class Filter(Protocol):
    """What may take an id for one of its own, and never the other way round."""

    def update(self, ids: Iterable[str], /) -> None:
        """Take ids in."""
        ...

    def __contains__(self, id: str, /) -> bool:  # noqa: A002
        """Whether it may be one of them."""
        ...


class Entered(NamedTuple):
    """Ids are in ``span`` now. ``forgot``: older ones were forgotten for it before their time."""

    span: int
    forgot: bool


class News(NamedTuple):
    """What the store has taken since.

    ``run``: names the store's life; another one means that it has lost what it held. ``span``: the newest.
    ``last``: up to where this reaches. ``missed``: something between is no longer there to be read.
    ``entries``: the span of some ids, and the ids that other processes have entered. ``more``: there is.
    """

    run: bytes
    span: int
    last: int
    missed: bool
    entries: Sequence[tuple[int, Sequence[str]]]
    more: bool


class SeenStore(Protocol):
    """The exact one. Any thread may call, several at once; each call is one round trip of bounded time.

    All but ``open`` raise ``StoreUnavailableError`` where there is no answer. Spans are numbered from 1.
    """

    def open(self) -> None:
        """Prove that it can be used; repeatable. Raises ``UnrecoverableError`` too."""
        ...

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that were entered and are not forgotten."""
        ...

    def enter(self, ids: Sequence[str]) -> Entered:
        """Enter ids; ones that are there already may be entered again."""
        ...

    def news(self, after: int) -> News:
        """Return what has been entered after that point; nothing after :data:`HERE`."""
        ...

    def piece(self, span: int, cursor: int) -> tuple[int, Sequence[str]]:
        """Return some ids of a span and where the next are found; 0: there are no more."""
        ...

    def close(self) -> None:
        """Let go of its connections."""
        ...


class Copy:
    """A filter for each span that the store keeps; the owner holds a lock."""

    def __init__(self, make_filter: Callable[[], Filter]) -> None:
        self._make = make_filter
        self._filters: dict[int, Filter] = {}
        self._newest = 0
        self.complete = False

    def doubts(self, ids: Sequence[str]) -> Sequence[str]:
        """Return the ids that may have been seen; all, unless the copy is complete."""
        if not self.complete:
            return ids
        doubts: list[str] = []
        for filter_ in self._filters.values():
            doubts += [id_ for id_ in ids if id_ in filter_]
        return doubts

    def add(self, span: int, ids: Sequence[str]) -> None:
        """Take ids of a span in; those of one that is forgotten are left out."""
        self.advance(span)
        if span + SPANS >= self._newest:
            if span not in self._filters:
                self._filters[span] = self._make()
            self._filters[span].update(ids)

    def advance(self, span: int) -> None:
        """Forget the spans that the store forgets, now that it has come so far."""
        if span > self._newest:
            self._newest = span
            for old in [number for number in self._filters if number + SPANS < span]:
                del self._filters[old]

    def clear(self) -> None:
        """Forget all; it is not complete any more."""
        self._filters.clear()
        self._newest = 0
        self.complete = False


class SeenIds:
    """What flush threads ask and tell, and what one thread of its own does for them (:meth:`step`).

    ``interval``: seconds between two looks at what others have entered. ``count`` is called with an
    outcome and a number of ids. ``wake``: there is something to do.
    """

    def __init__(
        self,
        store: SeenStore,
        make_filter: Callable[[], Filter],
        *,
        interval: float,
        backoff: Backoff,
        clock: Clock = SYSTEM_CLOCK,
        count: Callable[[str, int], None] = lambda _outcome, _number: None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._copy = Copy(make_filter)
        self._interval = interval
        self._clock = clock
        self._count = count
        self._wake = wake
        self._lock = Lock()
        self._gate = Gate(backoff)
        #: written here and not entered yet: known exactly
        self._pending: dict[str, None] = {}
        self._run: bytes | None = None
        self._last = 0
        self._look_at = -inf
        self._to_read: list[tuple[int, int]] = []
        self._loading: tuple[float, int] | None = None
        self._unasked = 0
        self._forgot = False

    @property
    def complete(self) -> bool:
        """Whether the copy holds all that the store held at its last look."""
        return self._copy.complete

    @property
    def pending(self) -> int:
        """Ids that were written and are not entered yet."""
        return len(self._pending)

    # ── flush threads ──

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that are certain to have been written; at most one round trip.

        None at all while the store is away: then everything is written.
        """
        with self._lock:
            found = self._pending.keys() & ids if self._pending else set()
            doubts = set(self._copy.doubts(ids)) - found
            shut = self._gate.shut
        if doubts and not shut:
            try:
                confirmed = self._store.known(list(doubts))
            except StoreUnavailableError as exc:
                self._failed(exc)
                shut = True
            else:
                found |= confirmed
                self._count("asked", len(doubts))
        if doubts and shut:
            with self._lock:
                self._unasked += len(doubts)
            self._count("unasked", len(doubts))
        if found:
            self._count("known", len(found))
        return found

    def wrote(self, ids: Sequence[str]) -> None:
        """Take ids that the sink has: written, or there before. Never blocks on the store."""
        with self._lock:
            self._pending.update(dict.fromkeys(ids))
            excess = len(self._pending) - MOST_PENDING
            for id_ in list(islice(self._pending, max(0, excess))):
                del self._pending[id_]
        if excess > 0:
            self._count("not-entered", excess)
        self._wake()

    # ── the thread of its own ──

    def open(self) -> None:
        """Prove the store's fitness. Raises ``UnrecoverableError``; one that is away is asked again later."""
        try:
            self._store.open()
        except StoreUnavailableError as exc:
            self._failed(exc)

    def step(self) -> float:
        """Enter what was written and learn what is new; return when there is more to do (monotonic).

        Raises ``UnrecoverableError`` where a store that was away comes back unfit.
        """
        now = self._clock.monotonic()
        if not self._gate.passes(now):
            return self._gate.wake_at
        was_shut = self._gate.shut
        with self._lock:
            self._gate.leave()
        try:
            if was_shut:
                self._store.open()
            more = self._enter() | self._learn(now)
        except StoreUnavailableError as exc:
            self._failed(exc)
            return self._gate.wake_at
        self._succeeded()
        return -inf if more else self._look_at

    def flush(self) -> None:
        """Enter all that was written, if the store takes it at once: the process ends."""
        try:
            while not self._gate.shut and self._enter():
                pass
        except StoreUnavailableError as exc:
            self._failed(exc)

    def _enter(self) -> bool:
        with self._lock:
            ids = list(islice(self._pending, AT_ONCE))
        if not ids:
            return False
        span, forgot = self._store.enter(ids)
        with self._lock:
            self._copy.add(span, ids)
            for id_ in ids:
                self._pending.pop(id_, None)
            more = bool(self._pending)
        self._count("entered", len(ids))
        if forgot and not self._forgot:
            self._forgot = True
            log.warning("seen_ids_forgotten_early", hint="more ids than `most` within the ttl")
        return more

    def _learn(self, now: float) -> bool:
        """Look at what is new, and read on in what was there before; return whether there is more."""
        if now >= self._look_at or self._to_read:
            news = self._store.news(self._last)
            if news.run != self._run or news.missed:
                news = self._store.news(HERE)
                self._start_reading(news, now)
            else:
                with self._lock:
                    self._copy.advance(news.span)
                for span, ids in news.entries:
                    self._take(span, ids)
            self._last = news.last
            if not news.more:
                self._look_at = now + self._interval
        for _ in range(PIECES):
            if not self._to_read:
                break
            self._read_on()
        if self._loading is not None and not self._to_read:
            since, ids_read = self._loading
            self._loading = None
            with self._lock:
                self._copy.complete = True
            seconds = round(self._clock.monotonic() - since, 3)
            log.info("seen_ids_loaded", ids=ids_read, seconds=seconds)
        return bool(self._to_read) or self._look_at <= now

    def _start_reading(self, news: News, now: float) -> None:
        """Begin the copy anew: what is entered from here on comes as news."""
        self._run = news.run
        with self._lock:
            self._copy.clear()
            self._copy.advance(news.span)
        self._loading = (now, 0)
        self._to_read = [(span, 0) for span in range(max(1, news.span - SPANS), news.span + 1)]

    def _read_on(self) -> None:
        span, cursor = self._to_read[-1]
        cursor, ids = self._store.piece(span, cursor)
        self._take(span, ids)
        if self._loading is not None:
            since, read = self._loading
            self._loading = (since, read + len(ids))
        if cursor:
            self._to_read[-1] = (span, cursor)
        else:
            self._to_read.pop()

    def _take(self, span: int, ids: Sequence[str]) -> None:
        # in small pieces: flush threads wait for the lock
        for start in range(0, len(ids), AT_ONCE):
            with self._lock:
                self._copy.add(span, ids[start : start + AT_ONCE])

    # ── both ──

    def _failed(self, exc: StoreUnavailableError) -> None:
        with self._lock:
            was_shut = self._gate.shut
            self._gate.failed(self._clock.monotonic())
        if not was_shut:
            log.warning("seen_store_away", problem=str(exc), then="everything is written")
        self._wake()

    def _succeeded(self) -> None:
        with self._lock:
            was_shut, unasked = self._gate.shut, self._unasked
            self._gate.succeeded(self._clock.monotonic())
            self._unasked = 0
        if was_shut:
            log.info("seen_store_back", unasked=unasked)
