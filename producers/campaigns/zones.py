"""Time zones as plain tables: offsets from UTC and when each begins, for servers that know no zones.

A table is ``[[0, offset], [utc_from, offset], ...]``: unix seconds and seconds east of UTC, ascending;
the first row holds from before the span, the last one to its end and beyond.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import tzinfo

Table = list[list[int]]

_FIXED = re.compile(r"(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>[0-5]\d))?", re.IGNORECASE)
_FARTHEST_HOURS = 14
_LONGEST_MINUTES = _FARTHEST_HOURS * 60
#: A zone that changes twice within one of these steps and comes back to where it was is not known.
_STEP = 86_400


def zone_of(name: str) -> tzinfo:
    """Return the zone of an IANA name (``Europe/Berlin``) or a fixed offset (``+05:30``, ``UTC-3``, ``Z``).

    Raises ``ValueError`` that says what would be right.
    """
    if name in {"Z", "z"}:
        return UTC
    if found := _FIXED.fullmatch(name):
        minutes = int(found["hours"]) * 60 + int(found["minutes"] or 0)
        if minutes <= _LONGEST_MINUTES:
            return timezone(timedelta(minutes=-minutes if found["sign"] == "-" else minutes))
    elif name in known_zones():
        return ZoneInfo(name)
    raise ValueError(f"{name!r} is no time zone; one like Europe/Berlin, or an offset like +05:30, is needed")


@lru_cache(maxsize=1)
def known_zones() -> frozenset[str]:
    """Return the IANA names; ``posixrules`` and the like, which name no place, are not among them."""
    return frozenset(name for name in available_timezones() if name[:1].isupper() and name != "Factory")


@lru_cache(maxsize=4096)
def _rows(name: str, first: int, last: int) -> tuple[tuple[int, int], ...]:
    zone = zone_of(name)
    offset = _offset(zone, first)
    rows = [(0, offset)]
    at = first
    while at < last:
        after = min(at + _STEP, last)
        if (new := _offset(zone, after)) != offset:
            rows.append((_change(zone, at, after), new))
            offset = new
        at = after
    return tuple(rows)


def table(name: str, start: float, end: float) -> Table:
    """Return a zone's table for all moments from ``start`` to ``end``; ``ValueError``: no such zone."""
    # whole days: campaigns of one day share what was found out
    first, last = int(start // _STEP) * _STEP, -int(-end // _STEP) * _STEP
    return [list(row) for row in _rows(name, first, max(last, first))]


def tables(start: float, end: float, used: Iterable[str] = ()) -> tuple[dict[str, Table], list[str]]:
    """Return the tables of all IANA zones and of the fixed offsets of ``used``; and what of it is no zone."""
    made = {name: table(name, start, end) for name in known_zones()}
    unknown = []
    for name in used:
        if name in made:
            continue
        try:
            made[name] = table(name, start, end)
        except ValueError:
            unknown.append(name)
    return made, sorted(unknown)


def offset_at(rows: Table, moment: float) -> int:
    """Return the offset that a table gives for a moment, in seconds east of UTC."""
    return next(offset for utc_from, offset in reversed(rows) if utc_from <= moment)


def _offset(zone: tzinfo, moment: int) -> int:
    offset = datetime.fromtimestamp(moment, zone).utcoffset()
    return round(offset.total_seconds()) if offset is not None else 0


def _change(zone: tzinfo, before: int, after: int) -> int:
    """Return the first second after ``before`` that has the offset of ``after``."""
    new = _offset(zone, after)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(zone, middle) == new:
            after = middle
        else:
            before = middle
    return after
