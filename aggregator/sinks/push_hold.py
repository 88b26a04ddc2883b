"""When pushes have to wait: what a gateway asked for, and the quota that it grants."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from aggregator.errors import SinkUnavailableError

if TYPE_CHECKING:
    from aggregator.clock import Clock

#: No gateway stops us for longer than this at once, whatever it says.
LONGEST = 3600.0
#: So many more answers that put a push off than others: then it is the gateway that is busy, not one device
#: or one of its machines.
STRAIN = 20


class Hold:
    """Until when a gateway wants to be left alone. Any thread may set or ask it.

    One push that is put off waits by itself. All wait once most are put off: each such answer counts one
    up, each other one down, and at ``STRAIN`` it is enough. Threads may lose a count: it is no matter.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = 0.0
        self._why = ""
        self._excess = 0

    def eased(self) -> None:
        """Note an answer that puts nothing off."""
        if self._excess:
            self._excess -= 1

    def strained(self) -> bool:
        """Note an answer that puts a push off; return whether most are, so that all have to wait."""
        if self.held:
            return True
        self._excess += 1
        if self._excess < STRAIN:
            return False
        self._excess = 0
        return True

    def wait(self, seconds: float, why: str) -> None:
        """Let no push leave for so many seconds."""
        until = self._clock.monotonic() + min(seconds, LONGEST)
        if until > self._until:
            self._until, self._why = until, why

    @property
    def held(self) -> bool:
        """Whether no push may leave now."""
        return self._clock.monotonic() < self._until

    def check(self) -> None:
        """Raise ``SinkUnavailableError`` while the gateway wants to be left alone."""
        left = self._until - self._clock.monotonic()
        if left > 0:
            raise SinkUnavailableError(f"{self._why}; {left:.0f} s are left")


class Pace:
    """At most ``rate`` pushes a second, in bursts of a tenth of that; for all threads together."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._clock = clock
        self._interval = 1 / rate
        self._burst = max(1.0, rate / 10) * self._interval
        self._due = 0.0
        self._lock = Lock()

    def pause(self) -> float:
        """Return the seconds until a push may leave; 0: one leaves now, and is counted."""
        with self._lock:
            now = self._clock.monotonic()
            due = max(self._due, now - self._burst + self._interval)
            if due > now:
                return due - now
            self._due = due + self._interval
            return 0.0
