"""The dead-letter queue in memory: letters wait, are under way, are published; or nothing gets through."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from aggregator.delivery import Delivery
    from aggregator.ports import Refused


class MemoryDeadLetters:
    """A :class:`aggregator.ports.DeadLetterPort` whose owner says when letters go and whether they arrive.

    ``report`` is told what is safe; set it before the first :meth:`end`. ``published`` is what arrived.
    """

    def __init__(self, clock: Clock, published: list[Refused] | None = None) -> None:
        self.waiting: list[Refused] = []
        self.under_way: list[Refused] = []
        self.published = published if published is not None else []
        self.failing_since: float | None = None
        self.report: Callable[[Sequence[Refused]], None] = lambda _refused: None
        self._clock = clock

    @property
    def pending(self) -> int:
        """How many were submitted and are not safe yet."""
        return len(self.waiting) + len(self.under_way)

    @property
    def bytes(self) -> int:
        """The size of their bodies."""
        return sum(len(entry.delivery.body) for entry in (*self.waiting, *self.under_way))

    def submit(self, refused: Sequence[Refused]) -> None:
        """Take over refused deliveries."""
        self.waiting += refused

    def drop(self, dead: Callable[[Refused], bool]) -> list[Refused]:
        """Forget and return what is dead and not under way; while nothing gets through, one is kept."""
        gone = [entry for entry in self.waiting if dead(entry)]
        if self.failing_since is not None and len(gone) == self.pending:
            gone = gone[1:]
        self.waiting = [entry for entry in self.waiting if not any(entry is other for other in gone)]
        return gone

    def begin(self, most: int) -> None:
        """Send some of the letters that wait."""
        moving, self.waiting = self.waiting[:most], self.waiting[most:]
        self.under_way += moving

    def end(self, *, confirmed: bool) -> None:
        """Have the broker confirm what is under way, or not: then it waits again."""
        letters, self.under_way = self.under_way, []
        if not letters:
            return
        if confirmed:
            self.failing_since = None
            self.published += letters
            self.under_way = letters  # the real port reports before it counts them as gone
            self.report(letters)
            self.under_way = []
        else:
            self.waiting += letters
            if self.failing_since is None:
                self.failing_since = self._clock.monotonic()

    def holds(self, delivery: Delivery) -> bool:
        """Whether this delivery, or another copy of its message, was published."""
        return any(_same(entry.delivery, delivery) for entry in reversed(self.published))


def _same(letter: Delivery, delivery: Delivery) -> bool:
    known = delivery.fingerprint
    return letter is delivery or bool(known and letter.fingerprint == known)
