"""A route that runs in memory, and what became of its messages; the ground of the harness."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from aggregator.metrics import Metrics
from aggregator.testing.broker import MemoryBroker
from aggregator.testing.clock import VirtualClock
from aggregator.testing.dead_letters import MemoryDeadLetters
from aggregator.testing.faults import Faults
from aggregator.testing.message import read_document
from aggregator.testing.process import Process
from aggregator.testing.record import Record, faults_of
from aggregator.testing.script import KilledError, ScriptedSink
from aggregator.testing.sink import MemorySink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aggregator.ports import Refused
    from aggregator.settings import Route
    from aggregator.sinks.base import Sink
    from aggregator.testing.message import Message
    from aggregator.testing.record import CompletedBatch


class Running:
    """One route over a queue and a ``store`` that outlive its processes; it starts at once.

    ``stored`` returns the ids that stand in the store; None if nobody can look. ``wall``: seconds
    since 1970 at the start.
    """

    def __init__(
        self,
        route: Route,
        store: Sink,
        *,
        stored: Callable[[], Iterable[str]] | None,
        links: int,
        wall: float,
    ) -> None:
        self.route = route
        self.clock = VirtualClock(time=wall)
        self.faults = Faults()
        #: what was refused and is safe in the dead-letter queue: ``reason``, ``detail``, ``delivery``, …
        self.dead_letters: list[Refused] = []
        self._links = links
        self._record = Record(self.faults)
        self._broker = MemoryBroker(self.faults, self._record.on_ack)
        if isinstance(store, MemorySink):
            store.faults = self.faults
            stored = stored or (lambda: store.stored)
        self._stored = stored
        self.sink = ScriptedSink(store, self.faults, self._record.told)
        self._metrics = Metrics()
        self._working = False
        self._process = self._new_process()
        self._work()

    # ── what became of it ──

    @property
    def documents(self) -> list[Any]:
        """What the sink has written, in order, parsed."""
        return [read_document(document) for _, document in self.sink.written]

    @property
    def batches(self) -> list[CompletedBatch]:
        """The groups that were completed, in order."""
        return list(self._record.batches)

    @property
    def queue(self) -> list[Message]:
        """What the broker still has: ready, or handed out and not acked; in the order of publishing."""
        return sorted([*self._broker.ready, *self._broker.unacked], key=lambda message: message.number)

    @property
    def unacked(self) -> list[Message]:
        """What of it is handed out."""
        return self._broker.unacked

    @property
    def acked(self) -> list[Message]:
        """What left the queue for good, in the order of the acks."""
        return list(self._broker.acked)

    @property
    def totals(self) -> dict[str, int]:
        """How many deliveries ended as what, by the service's own count (``deliveries_total``)."""
        return {verdict: n for verdict, n in self._metrics.totals().get(self.route.name, {}).items() if n}

    @property
    def state(self) -> str:
        """``waiting`` for the sink, ``running``, ``pausing``, ``paused``, ``draining`` or ``stopped``."""
        return self._process.pipeline.state.value

    @property
    def reason(self) -> str:
        """Why the route does not run; empty if it does."""
        return self._process.pipeline.reason

    def verify(self) -> None:
        """Raise ``AssertionError``, with a line for each fault, unless all is as it has to be.

        Each message is in the queue still, or was written (or known, or a sentinel) or dead-lettered
        before it was acked; each delivery was settled once, on the living link that brought it; the
        sink gave a verdict for each item, and what it claims stands in it.
        """
        faults = [*self.faults, *faults_of(self._broker.published, self.queue)]
        if self._stored is not None:
            missing = self.sink.claimed.difference(self._stored())
            faults += [
                f"the sink said that {name!r} stands in it, and it does not" for name in sorted(missing)
            ]
        if faults:
            raise AssertionError("\n".join(faults))

    # ── inside ──

    def _new_process(self) -> Process:
        process = Process(
            self.route,
            links=self._links,
            broker=self._broker,
            sink=self.sink,
            dead_letters=MemoryDeadLetters(self.clock, self.dead_letters),
            on_dead_lettered=self._record.dead_lettered,
            metrics=self._metrics.route(self.route.name),
            clock=self.clock,
        )
        self._record.watch(process.pipeline)
        return process

    def _restart(self) -> None:
        self._process.die()
        self._process = self._new_process()

    def _work(self) -> None:
        """Do what there is to do now, unless that is under way already."""
        if self._working:
            return None
        self._working = True
        try:
            while True:
                try:
                    return self._process.work()
                except KilledError:
                    if self._process.stopping:
                        return self._process.die()  # whoever stopped it does not start another
                    self._restart()
        finally:
            self._working = False

    def _pass_until(
        self, until: float, done: Callable[[], bool] = lambda: False, *, idle: bool = False
    ) -> None:
        """Let time pass from one due moment to the next, until then or until it is done.

        ``idle``: what the calendar says alone is waited for too.
        """
        self._work()
        while not done():
            due = self._process.due
            if idle or due < inf:
                due = min(due, self._process.calendar)
            if not due <= until or due == inf:
                return
            if due <= self.clock.monotonic():
                raise AssertionError("something is due, and nothing is done")
            self.clock.advance_to(due)
            self._work()
