"""One life of the service over a queue in memory: its workers, its route, its dead letters.

Everything is done in the caller's thread, in the same order each time; time passes by the owner's clock.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import TYPE_CHECKING

from aggregator.assembly import make_pipeline, make_rest
from aggregator.backoff import Backoff
from aggregator.testing.broker import QueueLink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused
    from aggregator.settings import Route
    from aggregator.sinks.base import Sink
    from aggregator.testing.broker import MemoryBroker
    from aggregator.testing.dead_letters import MemoryDeadLetters

#: So many rounds at one instant, in which nothing leaves the queue, are a loop without end.
ROUNDS = 1000


class MemoryWorker:
    """What ``consumers.worker`` does, a turn at a time: connect, read, ack, part."""

    def __init__(self, number: int, prefetch: int, broker: MemoryBroker, pipeline: Pipeline) -> None:
        self.link: QueueLink | None = None
        self.cancelled = False
        self.quiet = False
        self._number = number
        self._prefetch = prefetch
        self._broker = broker
        self._pipeline = pipeline

    def tend(self) -> bool:
        """Send the acks that are due; part from a route that waits, connect to one that runs."""
        link, consuming = self.link, self._pipeline.consuming
        if link is None:
            if self._pipeline.taking and not self.cancelled:
                self._connect()
                return True
            return False
        if self._pipeline.taking is self.quiet:
            self.quiet = not self.quiet
            self._pipeline.link_quiet(link, quiet=self.quiet)
            return True
        settled = link.perform(lambda _seconds: None)
        if not consuming:
            self.lose()  # closing the channel gives everything back, once
        return bool(settled) or not consuming

    def read(self) -> bool:
        """Take one message, if there is one for this worker and room for it."""
        link = self.link
        if link is None or self.cancelled or not (self._pipeline.taking and self._pipeline.has_room):
            return False
        found = self._broker.deliver(link, 1)
        if found:
            self._pipeline.accept(found)
        return bool(found)

    def lose(self, *, noticed: bool = True) -> None:
        """Lose the link; ``noticed``: the process lives to see it."""
        link, self.link = self.link, None
        if link is not None:
            self._broker.hang_up(link.channel)
            link.alive = False
            if noticed:
                self._pipeline.link_lost(link)

    def _connect(self) -> None:
        self.quiet = False
        self.link = link = self._broker.connect(self._prefetch, QueueLink, self._number)
        self._pipeline.link_opened(link, self._prefetch)


class Process:
    """A route with ``links`` workers. Retries pause by the settings, with the same jitter each time."""

    def __init__(
        self,
        route: Route,
        *,
        links: int,
        broker: MemoryBroker,
        sink: Sink,
        dead_letters: MemoryDeadLetters,
        on_dead_lettered: Callable[[Sequence[Refused]], None],
        metrics: RouteMetrics,
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self.dead_letters = dead_letters
        self.reaches_dead_letters = True
        self.stopping = self.ended = False
        self.pipeline = make_pipeline(
            route,
            sink=sink,
            dead_letters=dead_letters,
            metrics=metrics,
            clock=clock,
            backoff=Backoff(route.retry_first, route.retry_max, Random(0)),  # noqa: S311 - jitter
        )
        self._rest = make_rest(route, self.pipeline)
        #: when the calendar is to be looked at, in monotonic seconds; ``inf``: there is none
        self.calendar = inf if self._rest is None else clock.monotonic()
        dead_letters.report = self._report
        self.workers = [MemoryWorker(n, route.prefetch, broker, self.pipeline) for n in range(links)]
        self.pipeline.expect(links * route.prefetch)
        self._on_dead_lettered = on_dead_lettered
        self._turn = 0

    @property
    def due(self) -> float:
        """When there is something to do though nothing else happens, in monotonic seconds; ``inf``: never."""
        return inf if self.ended else self.pipeline._wake_at(self._clock.monotonic())  # noqa: SLF001

    def work(self) -> None:
        """Do all that there is to do at this moment. Raises ``AssertionError`` where that never ends."""
        if self._rest is not None and self.calendar <= self._clock.monotonic():
            ahead = self._rest.look(wall := self._clock.time()) - wall
            self.calendar = self._clock.monotonic() + ahead
        rounds, acked = 0, len(self._broker.acked)
        while not self.ended and self._round():
            rounds = rounds + 1 if acked == len(self._broker.acked) else 0
            acked = len(self._broker.acked)
            if rounds > ROUNDS:
                raise AssertionError(f"work without end: {self.pipeline.state.value} {self.pipeline.reason}")

    def cancel(self) -> None:
        """Take nothing more; what was taken may still be acked."""
        self.stopping = True
        for worker in self.workers:
            worker.cancelled = True

    def end(self) -> None:
        """Send the acks that are due, and close: the rest goes back to the queue."""
        for worker in self.workers:
            worker.tend()
            worker.lose()
        self.pipeline.close()
        self.ended = True

    def die(self) -> None:
        """Be killed: nothing is sent any more, nothing is noticed."""
        self.cancel()
        for worker in self.workers:
            worker.lose(noticed=False)
        self.ended = True

    def _report(self, refused: Sequence[Refused]) -> None:
        self._on_dead_lettered(refused)
        self.pipeline.dead_lettered(refused)

    def _round(self) -> bool:
        busy = False
        while self.pipeline.step():
            busy = True
        letters = self.dead_letters
        if letters.pending:
            letters.begin(letters.pending)
            letters.end(confirmed=self.reaches_dead_letters)
            busy = busy or self.reaches_dead_letters
        for worker in self.workers:
            busy = worker.tend() or busy
        return self._read() or busy

    def _read(self) -> bool:
        """Have the workers take what is ready, a message each in turn."""
        read, idle = False, 0
        while idle < len(self.workers):
            worker = self.workers[self._turn % len(self.workers)]
            self._turn += 1
            if worker.read():
                read, idle = True, 0
            else:
                idle += 1
        return read
