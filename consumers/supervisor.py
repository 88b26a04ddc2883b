"""Runs routes until a signal, until their queues are empty, or until none can go on."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

import structlog

from aggregator.ending import CLEAN, CLOSING_SECONDS, FAILED
from aggregator.signals import Signals
from aggregator.standing import RouteState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from consumers.route import RunningRoute

log = structlog.get_logger()

TICK_SECONDS = 0.1
#: A queue counts as empty when it was so for this long, and nothing came in meanwhile.
EMPTY_SECONDS = 0.3
#: What is left for closing to workers that were out of reach for the whole grace.
STUCK_SECONDS = 0.5


class Supervisor:
    """Owns the thread that runs it. ``grace``: seconds for writing what is held once it is told to stop.

    ``signals``: those that somebody has set up already; None: it sets them up itself.
    """

    def __init__(
        self,
        routes: Sequence[RunningRoute],
        *,
        grace: float,
        until_empty: bool,
        clock: Clock,
        signals: Signals | None = None,
    ) -> None:
        self._routes = routes
        self._grace = grace
        self._until_empty = until_empty
        self._clock = clock
        self._stop = Event()
        self._signals = signals or Signals()
        self._empty_since: float | None = None
        self._started = clock.monotonic()

    def stop(self) -> None:
        """Have :meth:`run` stop cleanly; any thread may call."""
        self._stop.set()

    def run(self) -> int:
        """Run to the end; return the exit code."""
        signals = self._signals
        signals.install()
        while not (self._stop.is_set() or signals.number):
            for route in self._routes:
                route.tend()
            if signals.forced:
                signals.forced = False
                groups = sum(route.pipeline.force() for route in self._routes)
                log.info("forced", signal="SIGUSR1", groups=groups)
            if all(route.hopeless or (self._until_empty and route.dead) for route in self._routes):
                log.error("nothing_to_do", reason="every route has stopped")
                break
            if self._until_empty and self._is_empty():
                break
            self._stop.wait(TICK_SECONDS)
        if signals.number:
            log.info("stopping", signal=signals.name)
        settled = self._shut_down()
        dead = any(route.dead for route in self._routes)
        return FAILED if dead or (self._until_empty and not settled) else CLEAN

    def lifeless(self) -> list[str]:
        """Return what is wrong with the process."""
        return [fault for route in self._routes for fault in route.lifeless()]

    def faults(self) -> list[str]:
        """Return why the process is not ready."""
        return [fault for route in self._routes for fault in route.faults()]

    # ── until empty ──

    def _is_empty(self) -> bool:
        now = self._clock.monotonic()
        if not all(route.dead or self._drained(route, now) for route in self._routes):
            self._empty_since = None
            return False
        if self._empty_since is None:
            self._empty_since = now
        return now - self._empty_since >= EMPTY_SECONDS

    @staticmethod
    def _drained(route: RunningRoute, now: float) -> bool:
        pipeline = route.pipeline
        if pipeline.state is not RouteState.RUNNING or not route.consuming:
            return False
        if now - pipeline.last_received < EMPTY_SECONDS or pipeline.unfinished:
            return False
        status = route.inspector.status()
        return status is not None and status.messages == 0

    # ── shutdown ──

    def _shut_down(self) -> bool:
        """Cancel, flush, ack, close: each under the deadline. Return whether all was settled."""
        self._stop.set()
        deadline = self._clock.monotonic() + self._grace
        routes = self._routes
        for route in routes:
            route.cancel()
        self._wait(lambda: all(route.cancelled for route in routes), deadline)
        for route in routes:
            route.pipeline.drain()
        settled = self._wait(lambda: all(route.pipeline.idle for route in routes), deadline)
        for route in routes:
            route.release()
        until = max(deadline, self._clock.monotonic())
        # a worker that has not even cancelled within the grace waits for what may never come: a file's lock
        ended = [
            route.join(until + (CLOSING_SECONDS if route.cancelled else STUCK_SECONDS)) for route in routes
        ]
        settled = settled and all(ended)  # what a thread still has to send is not acked
        if not settled:
            log.warning("grace_over", note="what was not written or acked goes back to the broker")
        log.info("stopped", settled=settled, threads_ended=all(ended))
        return settled

    def _wait(self, holds: Callable[[], bool], deadline: float) -> bool:
        pause = Event()
        while not holds():
            if self._clock.monotonic() >= deadline:
                return False
            pause.wait(TICK_SECONDS / 5)
        return True
