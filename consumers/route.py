"""One route at work: its workers, its flush threads and its dead-letter queue, from start to stop."""

from __future__ import annotations

from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

import structlog

from aggregator.backoff import LONGEST_PAUSE, Backoff
from aggregator.errors import PublisherUnavailableError, UnrecoverableError
from aggregator.standing import RouteState
from consumers.source import STATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregator.clock import Clock
    from aggregator.metrics import RouteMetrics
    from aggregator.pipeline import Pipeline
    from aggregator.sinks.base import Sink
    from consumers.source import Source, SourceWorker

log = structlog.get_logger()

#: Beyond this many heartbeats without a sign of life a worker's connection is broken from outside.
LIFELESS_BEATS = 3
LIFELESS_LEAST = 30.0
#: How long requests that outlasted the grace are waited for, once all links are closed.
ABANDON_SECONDS = 0.5
#: Seconds between two lines that say that a route is stopped.
REMIND_EVERY = 60.0
#: Seconds between two looks at the queue's number of consumers.
CONSUMERS_EVERY = 10.0


class RunningRoute:
    """Starts, watches and stops what serves one route. All methods belong to the supervisor's thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        source: Source,
        sink: Sink,
        workers: int,
        prefetch: int,
        flushers: int,
        metrics: RouteMetrics,
        clock: Clock,
    ) -> None:
        self.pipeline = pipeline
        self.queue = source.queue
        self.sink = sink
        self.failure = ""
        self.broker_problem = ""
        #: how many messages are in the queue by state, as far as its broker tells
        self.queue_states: Mapping[str, int] = {}
        self._source = source
        self._dead_letters = source.dead_letters
        self._metrics = metrics
        self._clock = clock
        self._log = log.bind(route=pipeline.name)
        self.workers = [
            source.worker(number, pipeline, prefetch=prefetch, metrics=metrics, clock=clock)
            for number in range(1, workers + 1)
        ]
        self._threads: dict[SourceWorker, Thread] = {}
        self._flushers = [
            Thread(target=pipeline.run, name=f"{pipeline.name}-flush-{number}", daemon=True)
            for number in range(1, flushers + 1)
        ]
        pipeline.expect(workers * prefetch)
        self.inspector = source.inspector
        self._backoff = Backoff(0.2, LONGEST_PAUSE)
        self._failures = 0
        self._try_at = self._look_at = 0.0
        self._remind_at = 0.0
        self._missing = 0
        metrics.watch_workers(STATES, self.count_workers)

    @property
    def started(self) -> bool:
        """Whether the dead-letter queue stands and the threads run."""
        return bool(self._threads)

    def count_workers(self, state: str) -> int:
        """Return how many workers are in this state."""
        return sum(worker.state == state for worker in self.workers)

    @property
    def problem(self) -> str:
        """Why nothing can be taken from the broker, as far as is known; empty if it can."""
        if self.failure or self.broker_problem or self.consuming:
            return self.failure or self.broker_problem
        return next((worker.problem for worker in self.workers if worker.problem), "")

    # ── start and watch ──

    def tend(self) -> None:
        """Start what is not running, and look whether all that runs is alive. Often called."""
        now = self._clock.monotonic()
        if not self.started:
            if now >= self._try_at and not self.failure:
                self._start(now)
            return
        if not self.dead and not self._dead_letters.alive:
            self.pipeline.stop("the dead-letter thread has died; see the log", lasting=True)
        if self.dead and now >= self._remind_at:
            self._remind_at = now + REMIND_EVERY
            self._log.error("route_is_stopped", reason=self.failure or self.pipeline.reason)
        for worker, thread in list(self._threads.items()):
            if not thread.is_alive():
                self._log.error("worker_died", worker=worker.name)
                self._launch(worker)
            elif now - worker.beat > max(LIFELESS_LEAST, LIFELESS_BEATS * self._source.heartbeat):
                self._log.error("worker_lifeless", worker=worker.name, seconds=round(now - worker.beat))
                worker.kick()
                worker.beat = now
        if self._source.watched and now >= self._look_at:
            self._look_at = now + CONSUMERS_EVERY
            self._look_at_queue()

    def _start(self, now: float) -> None:
        try:
            # before anything is consumed: what is refused has to have a place
            self._source.prepare()
            self._dead_letters.start()
        except PublisherUnavailableError as exc:
            self._failures += 1
            self._try_at = now + (pause := self._backoff.pause(self._failures))
            self.broker_problem = str(exc)
            self._log.warning("broker_away", problem=str(exc), next_try=round(pause, 1))
            return
        except UnrecoverableError as exc:
            self.failure = str(exc)
            self._log.error("route_stopped", reason=self.failure)
            return
        self.broker_problem = ""
        for thread in self._flushers:
            thread.start()
        for worker in self.workers:
            self._launch(worker)
        self._look_at = now + CONSUMERS_EVERY

    def _launch(self, worker: SourceWorker) -> None:
        worker.beat = self._clock.monotonic()
        thread = self._threads[worker] = Thread(target=worker.run, name=worker.name, daemon=True)
        thread.start()

    def _look_at_queue(self) -> None:
        """Tell how much waits; notice workers that believe to consume, and the broker knows nothing."""
        expected = self.count_workers("consuming")
        status = self.inspector.status()
        if status is not None and status.states is not None:
            self.queue_states = status.states
            self._metrics.queue(status.states)
        found = status.consumers if status is not None else None
        missing = found is not None and found < expected == len(self.workers)
        self._missing = self._missing + 1 if missing else 0
        if self._missing > 1:
            self._log.error("consumers_missing", expected=expected, found=found)
            self._missing = 0
            for worker in self.workers:
                worker.kick()

    @property
    def dead(self) -> bool:
        """Whether the route will do nothing more until the process starts again."""
        return bool(self.failure) or self.pipeline.state is RouteState.STOPPED

    @property
    def hopeless(self) -> bool:
        """Whether the process may as well end: what keeps the route from running is not its messages.

        A route that stopped because most messages are refused stays as it is: started again by
        whoever restarts processes, it would each time refuse some more.
        """
        return bool(self.failure) or self.pipeline.unrecoverable

    @property
    def consuming(self) -> bool:
        """Whether a worker consumes."""
        return self.count_workers("consuming") > 0

    def faults(self) -> list[str]:
        """Return why the route is not ready; nothing if it is."""
        name = self.pipeline.name
        if self.failure:
            return [f"{name}: {self.failure}"]
        if self.pipeline.state is not RouteState.RUNNING:
            return [f"{name}: {self.pipeline.state.value}: {self.pipeline.reason}"]
        return [] if self.consuming else [f"{name}: no worker consumes"]

    def lifeless(self) -> list[str]:
        """Return the threads that ought to run and do not."""
        threads = [*self._threads.values(), *(self._flushers if self.started else ())]
        return [f"{thread.name} has died" for thread in threads if not thread.is_alive()]

    # ── stop, in the order of what depends on what ──

    def cancel(self) -> None:
        """Have the workers cancel their consumers; their links stay open for acks."""
        for worker in self.workers:
            worker.stopping.set()
            worker.wake()

    @property
    def cancelled(self) -> bool:
        """Whether no worker takes anything any more."""
        return all(worker.cancelled.is_set() for worker in self._threads)

    def release(self) -> None:
        """Let the workers send the acks that are due and close; the rest goes back to the broker."""
        for worker in self.workers:
            worker.released.set()
            worker.wake()

    def join(self, until: float) -> bool:
        """Wait for all threads until then; return whether all have ended."""
        self.pipeline.close()
        started = [thread for thread in self._flushers if thread.ident is not None]
        for thread in self._threads.values():
            thread.join(max(0.1, until - self._clock.monotonic()))
        if not self.pipeline.idle:
            # a request that has outlasted the grace: nobody is left to ack what it writes
            until = min(until, self._clock.monotonic() + ABANDON_SECONDS)
        for thread in started:
            thread.join(max(0.1, until - self._clock.monotonic()))
        ended = not any(thread.is_alive() for thread in (*self._threads.values(), *started))
        self._dead_letters.stop(max(0.1, until - self._clock.monotonic()))
        self.inspector.close()
        if ended:
            with suppress(Exception):
                self.sink.close()
            for worker in self.workers:
                worker.close()
        return ended
