"""Moments of a crontab expression, by the calendar of a time zone."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from aggregator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Any moment: to see whether an expression has one at all.
_SOME_DAY = datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC"))


def crontab(expression: str, zone: str = "UTC", field: str = "crontab") -> Callable[[float], float]:
    """Return the function that gives the first moment after another, both in seconds since 1970.

    Where the clocks are put forward, a moment that does not exist comes right after; put back, it
    comes once. Raises ``ConfigurationError`` for ``field`` or ``time_zone``.
    """
    try:
        timezone = ZoneInfo(zone)
    except (KeyError, OSError, ValueError):
        raise ConfigurationError("time_zone", f"{zone!r} is none; one like Europe/Berlin is needed") from None
    try:
        next(CronSim(expression, _SOME_DAY))
    except (CronSimError, StopIteration):
        problem = f"{expression!r} names no moment; five fields like */15 6-22 * * mon-fri are needed"
        raise ConfigurationError(field, problem) from None

    def next_after(wall: float) -> float:
        return next(CronSim(expression, datetime.fromtimestamp(wall, timezone))).timestamp()

    return next_after
