"""Quiet hours of a route: what they are by the calendar, and the rest that the route takes in them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from aggregator.errors import ConfigurationError
from aggregator.schedule import crontab
from aggregator.standing import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable

_STRETCH = re.compile(
    r"(?:([a-z]{3}(?:[-,][a-z]{3})*)\s+)?(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)", re.IGNORECASE
)
#: A stretch ends a day after it began at the latest, and that day may have an hour more.
_LONGEST = 25 * 3600.0
#: Stretches that join for longer than a week leave no moment between them.
_WEEK = 8 * 86_400.0
_HOURS, _MINUTES = 24, 60


class _Stretch(NamedTuple):
    """The first moment after another at which it begins, and ends."""

    begins: Callable[[float], float]
    ends: Callable[[float], float]


class QuietHours:
    """``22:00-07:00``, ``sat,sun 00:00-24:00``, or several of these, by the calendar of a time zone.

    Days are those on which a stretch begins. Moments are seconds since 1970. Raises
    ``ConfigurationError`` for ``quiet`` or ``time_zone``.
    """

    def __init__(self, text: str, zone: str = "UTC") -> None:
        self._stretches = [_stretch(each, zone) for each in re.split(r"(?<=:\d\d)\s*,\s*", text.strip())]
        self._zone = ZoneInfo(zone)
        some_day = datetime(2024, 1, 1, tzinfo=self._zone).timestamp()
        if (self.until(some_day) or 0.0) > some_day + _WEEK:
            raise ConfigurationError("quiet", f"{text!r} leaves no moment that is not quiet; shorten it")

    def until(self, moment: float) -> float | None:
        """Return when the quiet ends that holds at ``moment``, None if none does.

        Stretches that touch are one.
        """
        end = moment
        while end <= moment + _WEEK and (later := self._ends(end)) > end:
            end = later
        return end if end > moment else None

    def begins(self, moment: float) -> float:
        """Return when the next stretch begins."""
        return min(stretch.begins(moment) for stretch in self._stretches)

    def shown(self, moment: float) -> str:
        """Return a moment for people, by the zone's calendar."""
        return f"{datetime.fromtimestamp(moment, self._zone):%Y-%m-%d %H:%M} {self._zone.key}"

    def _ends(self, moment: float) -> float:
        """Return when the last of the stretches ends that hold at ``moment``; ``moment`` if none does."""
        end = moment
        for stretch in self._stretches:
            began = stretch.begins(moment - _LONGEST)
            while began <= moment:
                end = max(end, stretch.ends(began))
                began = stretch.begins(began)
        return end


def _stretch(text: str, zone: str) -> _Stretch:
    found = _STRETCH.fullmatch(text.strip())
    hours = [int(part) for part in found.groups()[1:]] if found else []
    if not found or max(hours[::2]) > _HOURS or max(hours[1::2]) >= _MINUTES or hours[2:] > [_HOURS, 0]:
        problem = f"{text!r} is no stretch of a day; 22:00-07:00 or sat,sun 00:00-24:00 is needed"
        raise ConfigurationError("quiet", problem)
    days = (found[1] or "*").lower()
    if hours[0] == _HOURS or hours[:2] == hours[2:]:
        problem = f"{text!r} begins when it ends; 00:00-24:00 is a whole day, none is no quiet at all"
        raise ConfigurationError("quiet", problem)
    try:
        begins = crontab(f"{hours[1]} {hours[0]} * * {days}", zone)
        ends = crontab(f"{hours[3]} {hours[2] % _HOURS} * * *", zone)
    except ConfigurationError as exc:
        if exc.field != "crontab":
            raise
        problem = f"{text!r}: {days!r} are no days; mon-fri or sat,sun is needed"
        raise ConfigurationError("quiet", problem) from None
    if hours[:2] < hours[2:] < [_HOURS, 0]:
        # in the hour that is skipped both come right after it: then there is no such stretch that day
        return _Stretch(begins, lambda began: ends(began - 1.0))
    return _Stretch(begins, ends)


class Route(Protocol):
    """What takes the rest: a pipeline."""

    @property
    def reason(self) -> str:
        """Why it does not run; empty if it does."""
        ...

    def pause(self, reason: str) -> bool:
        """Take nothing more, write what is held, and rest; return whether that is new."""
        ...

    def resume(self) -> bool:
        """Take up again; return whether that is new."""
        ...


class Rest:
    """Pauses a route when its quiet hours begin, and resumes it when they end.

    A person's word counts for more: what somebody has paused stays so, and what somebody resumes runs
    until the next quiet hours.
    """

    def __init__(self, route: Route, hours: QuietHours) -> None:
        self._route = route
        self._hours = hours
        self._until: float | None = None
        self._reason = ""

    def look(self, now: float) -> float:
        """Do what the calendar says; return when to look again. Both in seconds since 1970."""
        until = self._hours.until(now)
        if until is None:
            # what was written of itself behind the reason is why something went back
            if self._reason and self._route.reason.startswith(self._reason):
                self._route.resume()
            self._until, self._reason = None, ""
            return self._hours.begins(now)
        if until != self._until:
            reason = f"{QUIET} {self._hours.shown(until)}"
            self._until, self._reason = until, reason if self._route.pause(reason) else ""
        return until
