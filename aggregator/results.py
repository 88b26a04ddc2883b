"""What became of each message, told to those who have put it in: noted beside the route, in bulk.

A store holds a job for each message that somebody wants to hear of. It is told after the fact, by a
thread of its own: what is told late, or not at all because a process was killed, changes nothing in what
is written and acked. A message that comes again is told again.
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
from aggregator.sinks.base import Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aggregator.backoff import Backoff
    from aggregator.clock import Clock
    from aggregator.delivery import Delivery, Item
    from aggregator.ports import Refused
    from aggregator.sinks.base import Verdict

#: The states of a job. It is ``queued`` by who submits it, and ``taken`` once a request with it leaves.
QUEUED, TAKEN, DEAD_LETTERED = "queued", "taken", "dead-lettered"
#: Those that a sink's word ends with. A dead letter is one only when it is safe in its queue.
FATES = {
    Fate.WRITTEN: "written",
    Fate.DUPLICATE: "duplicate",
    Fate.EXPIRED: "expired",
    Fate.REFUSED: "refused",
}
FINAL = frozenset({*FATES.values(), DEAD_LETTERED})
#: Words in one call of the store, and those that wait at most; beyond them the oldest are given up.
AT_ONCE, MOST_PENDING = 1000, 100_000

log = structlog.get_logger()


class Word(NamedTuple):
    """What is said of one job; ``reason``, ``detail`` and ``status`` as in a verdict, or of a dead letter."""

    job: str
    state: str
    reason: str = ""
    detail: str = ""
    status: int | None = None


class ResultStore(Protocol):
    """Where jobs are. Each call is one round trip of bounded time."""

    def open(self) -> None:
        """Prove that it can be used. Raises ``UnrecoverableError``, or ``StoreUnavailableError``."""
        ...

    def post(self, words: Sequence[Word]) -> None:
        """Note words on jobs that are there; a final one stays. Raises ``StoreUnavailableError``."""
        ...

    def close(self) -> None:
        """Let go of its connections."""
        ...


class Results:
    """What flush threads and the dead-letter thread tell, and what one thread passes on (:meth:`step`)."""

    def __init__(
        self,
        store: ResultStore,
        *,
        backoff: Backoff,
        clock: Clock = SYSTEM_CLOCK,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake
        self._lock = Lock()
        self._gate = Gate(backoff)
        self._pending: dict[str, Word] = {}
        self._given_up = 0

    @property
    def pending(self) -> int:
        """Words that wait."""
        return len(self._pending)

    def taken(self, items: Iterable[Item]) -> None:
        """Tell that a request with these items leaves."""
        self._tell([Word(job, TAKEN) for item in items for job in _jobs(item.deliveries)])

    def answered(self, items: Sequence[Item], verdicts: Sequence[Verdict] | None) -> None:
        """Tell the sink's words that are final; None: all are written."""
        words: list[Word] = []
        for position, item in enumerate(items):
            if verdicts is None:
                words += [Word(job, "written") for job in _jobs(item.deliveries)]
                continue
            verdict = verdicts[position]
            if (state := FATES.get(verdict.fate)) is not None:
                said = (verdict.reason, verdict.detail, verdict.status)
                words += [Word(job, state, *said) for job in _jobs(item.deliveries)]
        self._tell(words)

    def dead_lettered(self, refused: Iterable[Refused]) -> None:
        """Tell what is safe in the dead-letter queue, and why it is there."""
        self._tell(
            [
                Word(job, DEAD_LETTERED, entry.reason, entry.detail, entry.status)
                for entry in refused
                for job in _jobs((entry.delivery,))
            ]
        )

    def open(self) -> None:
        """Prove the store's fitness. Raises ``UnrecoverableError``; one that is away is asked again later."""
        try:
            self._store.open()
        except StoreUnavailableError as exc:
            self._failed(exc)

    def step(self) -> float:
        """Pass on what waits; return when there is more to do (monotonic)."""
        if not self._gate.passes(self._clock.monotonic()):
            return self._gate.wake_at
        was_shut = self._gate.shut
        self._gate.leave()
        try:
            if was_shut:
                self._store.open()
            more = self._post()
        except StoreUnavailableError as exc:
            self._failed(exc)
            return self._gate.wake_at
        self._gate.succeeded(self._clock.monotonic())
        if was_shut:
            log.info("result_store_back", given_up=self._given_up)
            self._given_up = 0
        return -inf if more else inf

    def flush(self) -> None:
        """Pass on all that waits, if the store takes it at once: the process ends."""
        try:
            while not self._gate.shut and self._post():
                pass
        except StoreUnavailableError as exc:
            self._failed(exc)

    def _post(self) -> bool:
        with self._lock:
            words = list(islice(self._pending.values(), AT_ONCE))
        if not words:
            return False
        self._store.post(words)
        with self._lock:
            for word in words:
                # a later word on the same job may stand in its place by now
                if self._pending.get(word.job) is word:
                    del self._pending[word.job]
            return bool(self._pending)

    def _tell(self, words: Sequence[Word]) -> None:
        if not words:
            return
        with self._lock:
            # of one job the latest word is enough
            self._pending.update({word.job: word for word in words})
            excess = max(0, len(self._pending) - MOST_PENDING)
            for job in list(islice(self._pending, excess)):
                del self._pending[job]
            self._given_up += excess
        self._wake()

    def _failed(self, exc: StoreUnavailableError) -> None:
        was_shut = self._gate.shut
        self._gate.failed(self._clock.monotonic())
        if not was_shut:
            log.warning("result_store_away", problem=str(exc))


def _jobs(deliveries: Iterable[Delivery]) -> list[str]:
    names = [delivery.basic_property("message_id") for delivery in deliveries]
    return [name for name in names if isinstance(name, str) and name]
