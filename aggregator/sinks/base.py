"""What a sink is, and the verdicts it gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aggregator.delivery import Item
    from aggregator.metrics import Metrics


class Fate(Enum):
    """What became of one item of a request."""

    WRITTEN = "written"
    DUPLICATE = "duplicate"
    """It stood there before: success, counted apart."""
    RETRY = "retry"
    """Not now: this item alone is sent again, after a pause."""
    EXPIRED = "expired"
    """Its time is over: it was not sent and never will be. Its message is done."""
    REVOKED = "revoked"
    """Somebody has said that it shall not be written. Its message is done."""
    REFUSED = "refused"
    """Never, and there is nothing to look into: a device whose token is dead. Its message is done."""
    DEAD_LETTER = "dead_letter"
    """Never: its messages go to the dead-letter queue with the reason."""
    BLOCKED = "blocked"
    """A refusal that concerns every item: it is kept, and the route pauses."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sink's word on one item.

    ``reason`` is a short constant word (``document_parsing_exception``), ``detail`` a sentence for
    people that never holds the document, ``status`` the service's number, where it has one.
    ``after``, with ``RETRY``: seconds for which this item alone is not to be sent again.
    """

    fate: Fate
    reason: str = ""
    detail: str = ""
    status: int | None = None
    after: float = 0.0


WRITTEN = Verdict(Fate.WRITTEN)
DUPLICATE = Verdict(Fate.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request to a sink may hold, and how many may be under way.

    ``items``: documents in a request, ``None`` for any number. ``bytes``: of documents in a
    request. ``concurrency``: threads that may be in :meth:`Sink.write` at once.
    """

    items: int | None = None
    bytes: int = 10 * 1024 * 1024
    concurrency: int = 4


@runtime_checkable
class Sink(Protocol):
    """Where items are written, in bulk.

    The constructor checks its settings and connects to nothing. The flush threads of one route
    call :meth:`write`, up to ``limits.concurrency`` at once, and nothing else; they may be blocked
    for as long as a request takes, and the sink bounds that time itself.
    """

    limits: Limits

    def open(self) -> None:
        """Connect, and prove that a write could work now.

        Called by one thread before the first write, and again as a probe after an outage, when no
        write is under way: it has to be repeatable. Raises ``SinkUnavailableError`` (later, maybe)
        or ``SinkBlockedError`` (not before somebody acts), ``UnrecoverableError`` (never).
        """
        ...

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Write all items in one request; return a verdict for each, in order.

        ``None`` means that each was written. An item whose id stands in the store already is a
        ``DUPLICATE``, not an error. Raises a ``SinkError`` where there are no verdicts at all; any
        other exception counts as ``SinkUnavailableError``.
        """
        ...

    def close(self) -> None:
        """Let go of everything; no write is under way. May be called twice."""
        ...

    def where(self) -> str:
        """Say in one line where a person can look at what was written."""
        ...


@runtime_checkable
class Knowing(Protocol):
    """A sink that can be asked for ids; without it, what a crash left of a group is written once more."""

    def known(self, ids: Sequence[str]) -> Collection[str]:
        """Return which of the ids stand in the store; leave out what cannot be told.

        Called by flush threads, side by side with writes. Raises a ``SinkError`` where nobody answers.
        """
        ...


@runtime_checkable
class Counting(Protocol):
    """A sink with counts of its own, beside those of its route."""

    def count_in(self, metrics: Metrics) -> None:
        """Take the process's metrics, once, before the first write."""
        ...
