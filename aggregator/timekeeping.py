"""A thread that does things at moments of the wall clock."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aggregator.clock import Clock

    #: Given the moment, does what is due and returns when to look again; seconds since 1970.
    Look = Callable[[float], float]

log = structlog.get_logger()

#: The longest wait: somebody may set the clock meanwhile.
LONGEST_WAIT = 10.0
#: The shortest: a clock that stands is asked no more often.
SHORTEST_WAIT = 0.05


class Timekeeper:
    """Looks at once when it is entered, then from a thread of its own until it is left."""

    def __init__(self, looks: Sequence[Look], clock: Clock) -> None:
        self._looks = looks
        self._clock = clock
        self._stop = Event()
        self._thread = Thread(target=self._run, name="timekeeper", daemon=True)

    def __enter__(self) -> Self:
        """Look once, so that nothing begins that the calendar forbids, and go on looking."""
        self._wait = self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._wait):
            self._wait = self._look()

    def _look(self) -> float:
        now = self._clock.time()
        soonest = now + LONGEST_WAIT
        for look in self._looks:
            try:
                soonest = min(soonest, look(now))
            except Exception:  # one route's fault is not the others'
                log.exception("timekeeper_failed")
        return max(SHORTEST_WAIT, soonest - now)
