"""The dead-letter queue: refused messages go out by a thread and a publisher of their own.

Only what the broker confirmed as stored in a queue is reported to ``on_published``; everything else
is tried again, after pauses that grow, and stays unacked at the broker until then. Failures of the
connection pause everything; a refusal (``unroutable``, ``nacked``) delays that message alone. While
nothing at all gets through, ``failing_since`` tells since when.
What may come right later goes to a retry queue instead, by the same way: :mod:`aggregator.retrying`.
The shape of a dead letter, and the way back: :mod:`consumers.dead_letter_message`.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Final

import structlog

from aggregator.clock import SYSTEM_CLOCK, Clock
from aggregator.errors import PublisherUnavailableError, UnrecoverableError
from aggregator.ports import Refused
from consumers.dead_letter_message import PREFIX, Original, dead_letter, original
from consumers.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aggregator.retrying import Retries

__all__ = ["PREFIX", "DeadLetters", "Original", "Refused", "dead_letter", "original"]

log = structlog.get_logger()

_BATCH_MESSAGES: Final = 500
_BATCH_BYTES: Final = 8 * 1024 * 1024
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_WHILE_STOPPING = 0.2, 30.0, 0.5
#: Seconds that a thread gets to notice that its connection was broken under it.
_ABORT_SECONDS: Final = 1.0
#: Reasons that a simpler form of the same message may overcome.
_FORM: Final = frozenset({"unencodable", "headers-too-large"})


@dataclass(slots=True)
class _Letter:
    """A refused message on its way out."""

    refused: Refused
    failures: int = 0
    plain: bool = False


class DeadLetters:
    """Publishes refused messages of one queue to ``<queue>.dead``, or to a named exchange.

    ``on_published`` is called on this object's thread with what is safe now; it must not block, and
    its errors are logged, never raised. ``routing_key`` is ``<queue>.dead`` unless given. A named
    exchange and what is bound to it are the operator's; ``<queue>.dead`` is declared at the start,
    and again if it disappears.
    ``retries``: what goes to a retry queue first; ``on_retried`` is called with it, as above.
    """

    def __init__(
        self,
        broker: str,
        queue: str,
        *,
        on_published: Callable[[Sequence[Refused]], None],
        exchange: str | None = None,
        routing_key: str | None = None,
        transport_options: Mapping[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
        confirm_timeout: float = 30.0,
        retries: Retries | None = None,
        on_retried: Callable[[Sequence[Refused]], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.queue = queue
        self._retries = retries
        self._on_retried = on_retried or on_published
        self.exchange = exchange or ""
        self.routing_key = (exchange and routing_key) or f"{queue}.dead"
        self._on_published = on_published
        self._clock = clock
        self._publisher = Publisher(
            broker,
            confirm_timeout=confirm_timeout,
            transport_options=transport_options,
            tls=tls,
            clock=clock,
        )
        self._changed = Condition()
        self._fresh: deque[_Letter] = deque()
        self._delayed: list[tuple[float, int, _Letter]] = []
        self._pending = 0
        self._bytes = 0
        self._batch = _BATCH_MESSAGES
        self._outages = 0
        self._open_at = 0.0
        self._stop_at: float | None = None
        self._failing_since: float | None = None
        self._declare = False
        self._thread = Thread(target=self._run, name=f"dead-letters-{queue}", daemon=True)

    @property
    def pending(self) -> int:
        """Messages that were submitted and are not confirmed yet."""
        return self._pending

    @property
    def bytes(self) -> int:
        """The size of their bodies."""
        return self._bytes

    @property
    def failing_since(self) -> float | None:
        """Monotonic seconds since when nothing gets through; None while all is well."""
        return self._failing_since

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Make sure that the destination exists, then start the thread.

        Raises ``UnrecoverableError`` where that is impossible, ``PublisherUnavailableError`` where
        the broker cannot be reached; it may be called again after the latter.
        """
        try:
            if self.exchange:
                self._publisher.check_exchange(self.exchange)
            self._declare_queues()
        finally:
            self._publisher.close()  # the thread opens its own: some transports bind one to its thread
        self._thread.start()

    def submit(self, refused: Sequence[Refused]) -> None:
        """Take over refused messages. Any thread may call; never blocks (the prefetch bounds it)."""
        with self._changed:
            self._fresh.extend(map(_Letter, refused))
            self._pending += len(refused)
            self._bytes += _size(refused)
            self._changed.notify_all()

    def drop(self, dead: Callable[[Refused], bool]) -> list[Refused]:
        """Forget and return what is dead and not under way: the broker hands it out again.

        While nothing gets through, one letter is kept: by it is seen when something does again.
        """
        with self._changed:
            letters = [*self._fresh, *(entry[2] for entry in self._delayed)]
            gone = [letter for letter in letters if dead(letter.refused)]
            if self._failing_since is not None and len(gone) == self._pending:
                gone = gone[1:]
            leaving = {id(letter) for letter in gone}
            self._fresh = deque(letter for letter in self._fresh if id(letter) not in leaving)
            self._delayed = [entry for entry in self._delayed if id(entry[2]) not in leaving]
            heapify(self._delayed)
            self._pending -= len(gone)
            self._bytes -= _size(letter.refused for letter in gone)
            self._changed.notify_all()
        return [letter.refused for letter in gone]

    def drain(self, timeout: float) -> bool:
        """Wait until nothing is pending; return whether that came true within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def stop(self, grace: float) -> bool:
        """Publish what is pending within ``grace`` seconds, then end; return whether all went out.

        What did not go out was never reported: it stays at the broker.
        """
        with self._changed:
            self._stop_at = self._clock.monotonic() + grace
            self._open_at = 0.0
            self._fresh.extend(letter for _, _, letter in self._delayed)
            self._delayed.clear()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(grace)
            if self._thread.is_alive():
                self._publisher.abort()
                self._thread.join(_ABORT_SECONDS)
        return not self._pending

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            # :attr:`alive` tells; what is pending stays at the broker
            log.exception("dead_letters_failed", queue=self.queue, pending=self._pending)
        finally:
            self._publisher.close()

    def _work(self) -> None:
        while letters := self._take():
            done, words = self._publish(letters)
            if done:
                self._failing_since = None
                self._report(done)
            elif self._failing_since is None:
                self._failing_since = self._clock.monotonic()
            with self._changed:
                self._pending -= len(done)
                self._bytes -= _size(done)
                self._changed.notify_all()
            if words:
                log.warning(
                    "dead_letters_refused", queue=self.queue, to=self._destination, words=dict(words),
                    pending=self._pending,
                )  # fmt: skip

    def _take(self) -> list[_Letter]:
        """Wait for letters that are due; return none once it is time to end."""
        with self._changed:
            while True:
                now = self._clock.monotonic()
                stopping = self._stop_at is not None
                if self._stop_at is not None and (now >= self._stop_at or not self._pending):
                    return []
                while self._delayed and self._delayed[0][0] <= now:
                    self._fresh.append(heappop(self._delayed)[2])
                if self._fresh and now >= self._open_at:
                    return self._next_batch()
                self._changed.wait(self._seconds_until_due(now, stopping=stopping))

    def _next_batch(self) -> list[_Letter]:
        letters = [self._fresh.popleft()]
        size = len(letters[0].refused.delivery.body)
        while self._fresh and len(letters) < self._batch:
            size += len(self._fresh[0].refused.delivery.body)
            if size > _BATCH_BYTES:
                break
            letters.append(self._fresh.popleft())
        return letters

    def _seconds_until_due(self, now: float, *, stopping: bool) -> float | None:
        moments = [self._stop_at] if stopping and self._stop_at is not None else []
        if self._fresh:
            moments.append(self._open_at)
        if self._delayed:
            moments.append(max(self._delayed[0][0], self._open_at))
        return max(0.0, min(moments) - now) if moments else None

    def _publish(self, letters: Sequence[_Letter]) -> tuple[list[Refused], Counter[str]]:
        """Publish a batch; return what is safe, and count the words of what was refused."""
        try:
            if self._declare:
                self._declare_queues()
                self._declare = False
            outcomes = self._publisher.publish([self._message(letter) for letter in letters])
        except (PublisherUnavailableError, UnrecoverableError) as exc:
            seen = getattr(exc, "outcomes", ())
            outcomes = [*seen, *["unknown"] * (len(letters) - len(seen))]
            self._note_outage(exc)
        else:
            self._outages = 0
            self._batch = min(_BATCH_MESSAGES, self._batch * 2)
        return self._sort(letters, outcomes)

    def _declare_queues(self) -> None:
        if not self.exchange:
            self._publisher.declare_queue(self.routing_key)
        for name, arguments in self._retries.queues.items() if self._retries else ():
            self._publisher.insist_on_queue(name, arguments)

    def _step(self, refused: Refused) -> tuple[int, str] | None:
        return self._retries.step(refused) if self._retries else None

    def _message(self, letter: _Letter) -> Any:
        number, name = self._step(letter.refused) or (None, None)
        return dead_letter(
            letter.refused,
            # of several partitions its own
            queue=getattr(letter.refused.delivery.link, "queue", "") or self.queue,
            exchange="" if name else self.exchange,
            routing_key=name or self.routing_key,
            retries=number,
            frame_max=self._publisher.frame_max,
            plain=letter.plain,
        )

    def _sort(
        self, letters: Sequence[_Letter], outcomes: Sequence[str | None]
    ) -> tuple[list[Refused], Counter[str]]:
        done: list[Refused] = []
        words: Counter[str] = Counter()
        with self._changed:
            for letter, outcome in zip(letters, outcomes, strict=True):
                if outcome is None:
                    done.append(letter.refused)
                elif outcome == "unknown":
                    # to the end: a message that breaks the connection lets the others pass
                    self._fresh.append(letter)
                elif outcome in _FORM and not letter.plain:
                    letter.plain = True
                    self._fresh.append(letter)
                else:
                    words[outcome] += 1
                    self._delay(letter)
        ours = not self.exchange or self._retries is not None
        self._declare = ours and (self._declare or "unroutable" in words)
        return done, words

    def _delay(self, letter: _Letter) -> None:
        letter.failures += 1
        due = self._clock.monotonic() + self._pause(letter.failures)
        heappush(self._delayed, (due, id(letter), letter))

    def _note_outage(self, exc: Exception) -> None:
        self._outages += 1
        # a smaller batch each time: if one message is what the broker closes the channel for, it
        # stands alone in the end
        self._batch = max(1, self._batch // 2)
        pause = self._pause(self._outages)
        self._open_at = self._clock.monotonic() + pause
        log.warning(
            "dead_letters_unavailable", queue=self.queue, error=str(exc), pending=self._pending,
            pause=round(pause, 2),
        )  # fmt: skip

    def _pause(self, failures: int) -> float:
        longest = _LONGEST_PAUSE if self._stop_at is None else _PAUSE_WHILE_STOPPING
        full = min(longest, _FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
        return full * random.uniform(0.5, 1.0)  # noqa: S311  spreads load, guards nothing

    def _report(self, done: list[Refused]) -> None:
        if self._retries is None:
            self._tell("dead_letters_published", self._destination, done, self._on_published)
            return
        places: dict[str | None, list[Refused]] = {}
        for refused in done:
            _, name = self._step(refused) or (None, None)
            places.setdefault(name, []).append(refused)
        for name, members in places.items():
            if name is None:
                self._tell("dead_letters_published", self._destination, members, self._on_published)
            else:
                self._tell("retries_published", name, members, self._on_retried)

    def _tell(
        self, event: str, place: str, done: list[Refused], report: Callable[[Sequence[Refused]], None]
    ) -> None:
        log.info(
            event, queue=self.queue, to=place, messages=len(done),
            reasons=dict(Counter(refused.reason for refused in done)),
        )  # fmt: skip
        try:
            report(done)
        except Exception:
            # they are safe in the dead-letter queue; unacked they will come again
            log.exception("dead_letters_not_reported", queue=self.queue, messages=len(done))

    @property
    def _destination(self) -> str:
        return f"{self.exchange}/{self.routing_key}" if self.exchange else self.routing_key


def _size(refused: Iterable[Refused]) -> int:
    return sum(len(entry.delivery.body) for entry in refused)
