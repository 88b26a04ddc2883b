"""Runs routes until a signal, until their queues are empty, or until none can go on."""

from __future__ import annotations

import os
import signal
from threading import Event, current_thread, main_thread
from typing import TYPE_CHECKING, Any

import structlog

from aggregator.standing import RouteState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock
    from consumers.route import RunningRoute

log = structlog.get_logger()

TICK_SECONDS = 0.1
#: A queue counts as empty when it was so for this long, and nothing came in meanwhile.
EMPTY_SECONDS = 0.3
#: What is left of the time for closing, after the deadline for writing.
CLOSING_SECONDS = 5.0

CLEAN, FAILED = 0, 1


class Supervisor:
    """Owns the thread that runs it. ``grace``: seconds for writing what is held once it is told to stop."""

    def __init__(
        self, routes: Sequence[RunningRoute], *, grace: float, until_empty: bool, clock: Clock
    ) -> None:
        self._routes = routes
        self._grace = grace
        self._until_empty = until_empty
        self._clock = clock
        self._stop = Event()
        self._signal = 0
        self._forced = False
        self._empty_since: float | None = None
        self._started = clock.monotonic()

    def stop(self) -> None:
        """Have :meth:`run` stop cleanly; any thread may call."""
        self._stop.set()

    def run(self) -> int:
        """Run to the end; return the exit code."""
        if current_thread() is main_thread():  # signals come to no other
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            signal.signal(signal.SIGUSR1, self._on_force)
        while not (self._stop.is_set() or self._signal):
            for route in self._routes:
                route.tend()
            if self._forced:
                self._forced = False
                groups = sum(route.pipeline.force() for route in self._routes)
                log.info("forced", signal="SIGUSR1", groups=groups)
            if all(route.hopeless or (self._until_empty and route.dead) for route in self._routes):
                log.error("nothing_to_do", reason="every route has stopped")
                break
            if self._until_empty and self._is_empty():
                break
            self._stop.wait(TICK_SECONDS)
        if self._signal:
            log.info("stopping", signal=signal.Signals(self._signal).name)
        settled = self._shut_down()
        dead = any(route.dead for route in self._routes)
        return FAILED if dead or (self._until_empty and not settled) else CLEAN

    def lifeless(self) -> list[str]:
        """Return what is wrong with the process."""
        return [fault for route in self._routes for fault in route.lifeless()]

    def faults(self) -> list[str]:
        """Return why the process is not ready."""
        return [fault for route in self._routes for fault in route.faults()]

    def _on_signal(self, number: int, _frame: Any) -> None:
        # nothing here takes a lock: the thread that is interrupted may hold it
        if self._signal:
            # the second one: what is not acked goes back to the broker by itself
            os.write(2, b"stopped at once; unacked messages go back to the broker\n")
            os._exit(FAILED)
        self._signal = number

    def _on_force(self, _number: int, _frame: Any) -> None:
        self._forced = True

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
        until = max(deadline, self._clock.monotonic()) + CLOSING_SECONDS
        ended = [route.join(until) for route in routes]
        if not settled:
            log.warning("grace_over", note="what was not written went back to the broker")
        log.info("stopped", settled=settled, threads_ended=all(ended))
        return settled

    def _wait(self, holds: Callable[[], bool], deadline: float) -> bool:
        pause = Event()
        while not holds():
            if self._clock.monotonic() >= deadline:
                return False
            pause.wait(TICK_SECONDS / 5)
        return True
