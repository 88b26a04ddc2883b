"""Zone tables against zoneinfo: the same offset at every moment of the span."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from producers.campaigns.zones import known_zones, offset_at, table, tables, zone_of

DAY = 86_400
ZONES = st.sampled_from(sorted(known_zones()))
#: The time for which zone rules are known well: 1990 to 2037.
MOMENTS = st.integers(631_152_000, 2_145_916_800)


def seconds(year, month, day, hour=0, minute=0):
    return datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()


@given(ZONES, MOMENTS, st.integers(0, 200 * DAY), st.floats(0, 1))
@example("Africa/Casablanca", int(seconds(2026, 2, 1)), 90 * DAY, 0.3)  # back for Ramadan only
@example("Australia/Lord_Howe", int(seconds(2026, 3, 1)), 60 * DAY, 0.6)  # by half an hour
@example("Pacific/Apia", int(seconds(2011, 12, 20)), 30 * DAY, 0.5)  # a day left out
@example("America/New_York", int(seconds(2026, 3, 8, 6)), DAY, 0.5)
def test_the_table_gives_what_zoneinfo_gives(name, start, length, share):
    rows = table(name, start, start + length)
    moment = start + int(share * length)
    offset = datetime.fromtimestamp(moment, ZoneInfo(name)).utcoffset()
    assert offset_at(rows, moment) == offset.total_seconds()


@given(ZONES, MOMENTS, st.integers(0, 60 * DAY))
def test_each_row_begins_at_the_very_second(name, start, length):
    rows = table(name, start, start + length)
    assert rows[0][0] == 0
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    zone = ZoneInfo(name)
    for utc_from, offset in rows[1:]:
        before, at = (datetime.fromtimestamp(utc_from - back, zone).utcoffset() for back in (1, 0))
        assert before != at
        assert at == timedelta(seconds=offset)


@given(st.integers(-14 * 60, 14 * 60), st.sampled_from(["", "UTC", "GMT", "utc"]), st.booleans())
def test_fixed_offsets(minutes, prefix, colon):
    sign = "-" if minutes < 0 else "+"
    hours, rest = divmod(abs(minutes), 60)
    name = f"{prefix}{sign}{hours:02}{':' if colon else ''}{rest:02}"
    assert zone_of(name) == timezone(timedelta(minutes=minutes))
    assert table(name, 0, DAY) == [[0, minutes * 60]]


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "+15:00", "+5:61", "posixrules", "../etc/passwd", "berlin"]
)
def test_what_is_no_zone(name):
    with pytest.raises(ValueError, match="is no time zone"):
        zone_of(name)


def test_all_zones_of_a_campaign_and_those_that_nobody_knows():
    start = seconds(2026, 3, 27)
    made, unknown = tables(start, start + 4 * DAY, ["+05:30", "Europe/Berlin", "Moon/Crater"])
    assert unknown == ["Moon/Crater"]
    assert made["Europe/Berlin"] == [[0, 3600], [int(seconds(2026, 3, 29, 1)), 7200]]
    assert made["+05:30"] == [[0, 19_800]]
    assert made["Etc/GMT-3"] == [[0, 10_800]]
    assert known_zones() <= made.keys()
