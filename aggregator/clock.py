"""Time, injected: the only module that reads the machine's clocks.

Ages and deadlines use ``monotonic``; ids and headers that people read use ``time``.
"""

from __future__ import annotations

import time as _time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the core asks of time."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never steps back."""
        ...

    def time(self) -> float:
        """Seconds since 1970-01-01 UTC; may step."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)


SYSTEM_CLOCK = SystemClock()

monotonic = _time.monotonic
sleep = _time.sleep


def utc_now() -> datetime:
    """Return the present moment as an aware datetime in UTC."""
    return datetime.now(UTC)
