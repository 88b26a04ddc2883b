"""Tubes of Tarantool as a source: tasks are deliveries, with the same promises as those of AMQP.

A worker has one session at one server and takes from all tubes of its route. What it holds when the
session ends is ready again at once, for whoever takes it then; recipients that are done with are
remembered here, and not sent to again when the same process gets the task.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Event, Lock
from typing import TYPE_CHECKING

from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import TarantoolError, TarantoolUnavailableError
from consumers.tarantool import Tarantool
from consumers.tube_delivery import TubeDelivery
from consumers.tube_link import TubeLink
from consumers.working import TICK_SECONDS, Working

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline
    from aggregator.ports import Refused
    from consumers.tarantool import Address
    from consumers.tube_delivery import Progress

#: The longest wait for tasks while nothing is held; stopping waits for it too.
TAKE_SECONDS = 0.25
#: The wait between two looks for tasks while some are held: meanwhile settlements are sent at once.
LOOK_SECONDS = 0.05
#: How long a worker that parts waits for requests under way, so that what they say still counts.
PARTING_SECONDS = 2.0
#: Tasks of which it is remembered which recipients are done with, after their session was lost.
REMEMBERED = 10_000


class Memory:
    """Which recipients of tasks are done with whose session was lost. Any thread may call."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._tasks: OrderedDict[str, tuple[int, Progress]] = OrderedDict()
        self._lock = Lock()

    def keep(self, deliveries: Sequence[TubeDelivery]) -> None:
        """Remember tasks: requests that are under way may still add to what is known of them."""
        with self._lock:
            for delivery in deliveries:
                self._tasks[delivery.message_id] = hash(delivery.body), delivery.progress
            while len(self._tasks) > self._most:
                self._tasks.popitem(last=False)

    def recall(self, delivery: TubeDelivery) -> None:
        """Tell a task that comes again what is known of it, if it is still the same."""
        with self._lock:
            digest, progress = self._tasks.pop(delivery.message_id, (0, None))
        if progress is not None and digest == hash(delivery.body):
            delivery.progress = progress


class Burials:
    """The dead-letter queue of tubes: a refused task stays in its tube, buried with its reason.

    ``on_buried`` is told what is safe there, on the thread of the worker that has buried it.
    """

    alive = True
    failing_since = None

    def __init__(self, on_buried: Callable[[Sequence[Refused]], None]) -> None:
        self._report = on_buried
        self._lock = Lock()
        self._pending: dict[int, Refused] = {}

    @property
    def pending(self) -> int:
        """How many are not buried yet."""
        return len(self._pending)

    @property
    def bytes(self) -> int:
        """The size of their bodies."""
        with self._lock:
            return sum(len(refused.delivery.body) for refused in self._pending.values())

    def start(self) -> None:
        """Nothing has to be there beforehand."""

    def stop(self, grace: float) -> bool:
        """Return whether all are buried: the workers have ended."""
        del grace
        return not self._pending

    def submit(self, refused: Sequence[Refused]) -> None:
        """Have tasks buried by the sessions that have taken them."""
        with self._lock:
            self._pending.update((id(entry), entry) for entry in refused)
        for entry in refused:
            self._assign(entry)

    def drop(self, dead: Callable[[Refused], bool]) -> list[Refused]:
        """Forget and return those whose sessions are lost; the others are given to a session that is not."""
        with self._lock:
            gone = [entry for entry in self._pending.values() if dead(entry)]
            for entry in gone:
                del self._pending[id(entry)]
            left = [entry for entry in self._pending.values() if not entry.delivery.link.alive]
        for entry in left:
            self._assign(entry)
        return gone

    def buried(self, refused: Sequence[Refused]) -> None:
        """Report tasks that are buried."""
        with self._lock:
            done = [entry for entry in refused if self._pending.pop(id(entry), None) is not None]
        if done:
            self._report(done)

    @staticmethod
    def _assign(entry: Refused) -> None:
        delivery = entry.delivery
        while not delivery.link.alive and delivery.follower is not None:
            delivery = delivery.follower
        if isinstance(delivery, TubeDelivery) and isinstance(link := delivery.link, TubeLink):
            link.bury(entry, delivery)


class TubeWorker(Working):
    """Takes tasks for one route from one server. ``connect`` opens a session."""

    losses = (TarantoolError, TarantoolUnavailableError)

    def __init__(
        self,
        address: Address,
        tubes: Sequence[str],
        pipeline: Pipeline,
        *,
        prefetch: int,
        name: str,
        epochs: Iterator[int],
        memory: Memory,
        burials: Burials,
        metrics: RouteMetrics,
        clock: Clock = SYSTEM_CLOCK,
        connect: Callable[[Address], Tarantool] = Tarantool,
    ) -> None:
        super().__init__(
            pipeline, name=name, prefetch=prefetch, metrics=metrics, clock=clock, server=str(address)
        )
        self._address = address
        self._tubes = list(tubes)
        self._epochs = epochs
        self._memory = memory
        self._burials = burials
        self._connect = connect
        self._awake = Event()
        self._client: Tarantool | None = None
        self._quiet = False

    def wake(self) -> None:
        """Have the worker look around at once. Any thread may call; never blocks."""
        self._awake.set()

    def kick(self) -> None:
        """Break the connection from outside: for a watchdog, when the worker shows no life."""
        if (client := self._client) is not None:
            client.abort()

    def close(self) -> None:
        """Nothing is left to let go of; the thread has ended."""

    # ── one session ──

    def _work(self) -> None:
        client = self._client = self._connect(self._address)
        link = TubeLink(
            client, next(self._epochs), wake=self.wake, on_buried=self._burials.buried, clock=self._clock
        )
        self._quiet = False
        try:
            self._pipeline.link_opened(link, self.prefetch)
            while self._iterate(client, link):
                pass
            self._part(link)
        finally:
            self._client = None
            self._lose(link)
            client.close()

    def _iterate(self, client: Tarantool, link: TubeLink) -> bool:
        if not self._pipeline.consuming or self.released.is_set():
            return False
        if self.stopping.is_set():
            self.state = "stopping"
            self.cancelled.set()
        taking = self._pipeline.taking
        if taking is self._quiet:
            self._quiet = not taking
            self._pipeline.link_quiet(link, quiet=self._quiet)
            self.state = "pausing" if self._quiet else "connecting"
        took = taking and not self.cancelled.is_set() and self._take(client, link)
        link.perform(self._metrics.ack_lag_seconds.observe)
        link.touch()
        self.beat = self._clock.monotonic()
        if not took:
            self._wait(link)
        return True

    def _take(self, client: Tarantool, link: TubeLink) -> bool:
        """Take what there is and hand it over; return whether to look for more at once."""
        room = self.prefetch - link.unsettled
        # what may kill the process is written alone: nothing else is taken to be killed with it
        if room <= 0 or not self._pipeline.has_room or self._pipeline.trying:
            return False
        # nobody waits for an ack while nothing is held: then the server may keep the call
        timeout = 0.0 if link.unsettled or link.unsent else TAKE_SECONDS
        (rows,) = client.call("tubes.take", self._tubes, timeout, room, wait=timeout)
        if self.state != "consuming":
            self.state, self._failures = "consuming", 0
        server = str(self._address)
        deliveries = [TubeDelivery(link, server, row) for row in rows]
        for delivery in deliveries:
            if delivery.redelivered:
                self._memory.recall(delivery)
        if deliveries:
            link.delivered(deliveries)
            self._pipeline.accept(deliveries)
        return bool(deliveries) or not link.unsettled

    def _wait(self, link: TubeLink) -> None:
        looks = not (self.cancelled.is_set() or self._quiet) and link.unsettled < self.prefetch
        self._awake.wait(LOOK_SECONDS if looks else TICK_SECONDS)
        self._awake.clear()

    def _part(self, link: TubeLink) -> None:
        """Leave in order: acks first, then nothing more is sent, then the rest goes back, shortened."""
        link.perform(self._metrics.ack_lag_seconds.observe)
        self._lose(link)
        self._await_answers()
        link.return_all()

    def _await_answers(self) -> None:
        until = self._clock.monotonic() + PARTING_SECONDS
        while self._pipeline.writing and self._clock.monotonic() < until:
            self._awake.wait(LOOK_SECONDS)
            self._awake.clear()

    def _lose(self, link: TubeLink) -> None:
        if link.alive:
            link.alive = False
            self._memory.keep(link.taken)
            self._pipeline.link_lost(link)
