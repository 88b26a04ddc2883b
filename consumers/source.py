"""What a route asks of wherever its deliveries come from: workers, a look from outside, dead letters."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aggregator.ports import DeadLetterPort

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event

    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline

#: Unique in the process: a delivery of one link is never taken for one of another.
EPOCHS = count(1)
#: What workers may be at.
STATES = ("connecting", "isolating", "consuming", "pausing", "waiting", "stopping", "stopped")


class QueueStatus(NamedTuple):
    """What a queue holds.

    ``messages``: those to be taken still, not those that somebody holds. ``consumers``: everybody's, None
    where the source does not say. ``states``: how many are in which state, as far as it tells.
    """

    messages: int
    consumers: int | None = None
    states: Mapping[str, int] | None = None


class Inspector(Protocol):
    """Looks at a queue from outside the workers. One thread owns it; nothing it meets is an error."""

    def status(self) -> QueueStatus | None:
        """Return what the source says, or None where it does not answer."""
        ...

    def close(self) -> None:
        """Let go of its connection."""
        ...


class DeadLetterService(DeadLetterPort, Protocol):
    """The dead-letter queue with its beginning and its end."""

    @property
    def alive(self) -> bool:
        """Whether it works."""
        ...

    def start(self) -> None:
        """Make sure that there is a place for what is refused.

        Raises ``UnrecoverableError``, or ``PublisherUnavailableError``: call again.
        """
        ...

    def stop(self, grace: float) -> bool:
        """End within ``grace`` seconds; return whether all is safe."""
        ...


class SourceWorker(Protocol):
    """A thread's work: taking deliveries over one link after the other, and acking them.

    Setting ``stopping`` ends the taking, and ``cancelled`` is set then; the link stays for acks until
    ``released`` is set. ``state`` is one of :data:`STATES`; ``beat``: its last sign of life (monotonic);
    ``problem``: why it lost its last link.
    """

    name: str
    state: str
    problem: str
    beat: float
    stopping: Event
    released: Event
    cancelled: Event

    def run(self) -> None:
        """Work until told to stop; the body of a thread."""
        ...

    def wake(self) -> None:
        """Have it look around at once. Any thread; never blocks."""
        ...

    def kick(self) -> None:
        """Break its connection from outside. Any thread."""
        ...

    def close(self) -> None:
        """Let go of everything; the thread has ended."""
        ...


class Source(Protocol):
    """One queue of one kind of broker. ``heartbeat``: seconds between signs of life on its connections.

    ``watched``: whether it is worth asking, while the route runs, what the queue holds.
    """

    queue: str
    heartbeat: float
    watched: bool

    @property
    def dead_letters(self) -> DeadLetterService:
        """Where refused deliveries go."""
        ...

    @property
    def inspector(self) -> Inspector:
        """The look from outside."""
        ...

    def prepare(self) -> None:
        """Make sure that all stands that was described; connects only where something was.

        Raises ``UnrecoverableError``, or ``PublisherUnavailableError``: call again.
        """
        ...

    def worker(
        self, number: int, pipeline: Pipeline, *, prefetch: int, metrics: RouteMetrics, clock: Clock
    ) -> SourceWorker:
        """Return the worker of this number, from 1; it connects once it runs."""
        ...
