"""A clock that goes when it is told to, so that a test of an hour takes no time."""

from __future__ import annotations

from datetime import UTC, datetime
from threading import Lock


class VirtualClock:
    """A :class:`aggregator.clock.Clock` whose two readings move by :meth:`advance` alone.

    ``monotonic`` and ``time`` are the seconds to start from. Any thread may read or advance it.
    """

    def __init__(self, monotonic: float = 1000.0, time: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._time = time
        self._lock = Lock()

    def monotonic(self) -> float:
        """Return the seconds that have been advanced, on top of the start."""
        return self._monotonic

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC; :meth:`step` moves them alone."""
        return self._time

    def advance(self, seconds: float) -> float:
        """Let time pass; return the new monotonic reading. Raises ``ValueError`` for less than 0."""
        if seconds < 0:
            raise ValueError(f"{seconds}: time does not go back; step() moves the wall clock")
        with self._lock:
            self._monotonic += seconds
            self._time += seconds
            return self._monotonic

    def advance_to(self, moment: float) -> float:
        """Let time pass until ``moment`` (monotonic seconds), unless that is past; return the reading."""
        with self._lock:
            ahead = max(0.0, moment - self._monotonic)
            self._monotonic = max(self._monotonic, moment)  # the moment itself, whatever sums round to
            self._time += ahead
            return self._monotonic

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back: what an administrator or NTP does."""
        with self._lock:
            self._time += seconds


def wall_seconds(moment: str | float | datetime) -> float:
    """Return seconds since 1970 of ISO 8601 or a ``datetime``, in UTC unless it says otherwise."""
    if isinstance(moment, int | float):
        return float(moment)
    read = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
