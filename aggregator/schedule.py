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

    A time of day (minutes and hours that both do not start with ``*``) comes once: where the clocks
    are put forward and skip it, right after; where they are put back, the first time. What repeats
    (``*/15 * * * *``) comes whenever the clock shows it, in both hours; where clocks shift by half an
    hour (Lord Howe), one of these may be passed over that night. Raises ``ConfigurationError`` for
    ``field`` or ``time_zone``.
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
        moments = CronSim(expression, datetime.fromtimestamp(wall, timezone))
        # in the hour that comes twice, its next is the one of the first hour: that has passed
        return next(at for moment in moments if (at := moment.timestamp()) > wall)

    return next_after
