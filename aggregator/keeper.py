"""A thread beside a route that does what may wait, so that nobody who writes has to wait for it."""

from __future__ import annotations

from math import inf
from threading import Event, Thread
from typing import TYPE_CHECKING

import structlog

from aggregator.errors import UnrecoverableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.clock import Clock

log = structlog.get_logger()


class Keeper:
    """Calls ``step`` whenever it is woken, or at the time (monotonic) that it returned.

    ``last`` is called once at the end. An ``UnrecoverableError`` ends it with one line in the log:
    the route goes on without.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._woken = Event()
        self._ended = False
        self._thread: Thread | None = None

    @property
    def started(self) -> bool:
        """Whether it has been started and not closed."""
        return self._thread is not None

    def start(self, step: Callable[[], float], last: Callable[[], None]) -> None:
        """Begin."""
        self._thread = Thread(target=self._run, args=(step, last), name=self._name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have it look around at once. Any thread may call; never blocks."""
        self._woken.set()

    def close(self, patience: float) -> None:
        """Have it do the last, and wait for that so many seconds."""
        self._ended = True
        self._woken.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(patience)

    def _run(self, step: Callable[[], float], last: Callable[[], None]) -> None:
        try:
            while not self._ended:
                self._woken.clear()
                wait = step() - self._clock.monotonic()
                if wait > 0 and not self._ended:
                    self._woken.wait(None if wait == inf else wait)
            last()
        except UnrecoverableError as exc:
            log.error("store_unfit", store=self._name, problem=str(exc))  # noqa: TRY400
        except Exception:
            log.exception("keeper_failed", store=self._name)
