"""Quiet and preferred hours, in the server's own interpreter, against Python's zoneinfo."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from producers.campaigns import zones

pytestmark = pytest.mark.integration

DAY = 86_400
STEP = 300
#: Offsets of halves and quarters of an hour, changes of half an hour, changes at midnight, and none.
NAMES = [
    "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Tehran",
    "Australia/Lord_Howe", "Pacific/Chatham", "America/Asuncion", "Africa/Casablanca", "Africa/Cairo", "UTC",
]  # fmt: skip
#: The night of a change in one of them.
CHANGES = [
    datetime(2026, 3, 29, 1, tzinfo=ZoneInfo("UTC")).timestamp(),
    datetime(2026, 10, 25, 1, tzinfo=ZoneInfo("UTC")).timestamp(),
    datetime(2026, 3, 8, 7, tzinfo=ZoneInfo("UTC")).timestamp(),
    datetime(2026, 4, 4, 15, tzinfo=ZoneInfo("UTC")).timestamp(),
    datetime(2026, 10, 3, 15, 30, tzinfo=ZoneInfo("UTC")).timestamp(),
    # 2:45 becomes 3:45: in the middle of an hour
    datetime(2026, 9, 26, 14, tzinfo=ZoneInfo("UTC")).timestamp(),
]
FIND = """
    local zone, quiet, from, to, now = ...
    local mask = windows.mask(quiet, from, to)
    if mask == nil then return end
    return windows.find(zone, mask, now)
"""


def hours(first, last):
    """Return the hours of [first, last), around midnight if need be; all if both are equal."""
    return set(range(24)) if first == last else {(first + n) % 24 for n in range((last - first) % 24)}


def allowed_hours(quiet, own):
    wanted = hours(*own) if own else set(range(24))
    loud = hours(*quiet) if quiet and quiet[0] != quiet[1] else set()
    return wanted - loud or wanted


moments = st.one_of(
    st.integers(1_750_000_000, 1_830_000_000),
    st.builds(lambda change, by: change + by, st.sampled_from(CHANGES), st.integers(-DAY, DAY)),
    st.builds(lambda at: at / 8, st.integers(8 * 1_760_000_000, 8 * 1_761_000_000)),
)
spans = st.none() | st.tuples(st.integers(0, 23), st.integers(0, 23))


@pytest.fixture(scope="module")
def lua(request):
    server = request.getfixturevalue("fleet").get("tarantool")
    with closing(server.client()) as client:
        yield client


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), spans=st.tuples(spans, spans), now=moments)
@example(name="Europe/Berlin", spans=((22, 2), None), now=CHANGES[0])
@example(name="Europe/Berlin", spans=((3, 2), None), now=CHANGES[0] - 7200)
@example(name="Pacific/Chatham", spans=(None, (3, 4)), now=CHANGES[5] - 1800)
@example(name="Australia/Lord_Howe", spans=(None, (2, 3)), now=CHANGES[4] - DAY)
def test_a_window_is_what_the_zones_say(tarantool, lua, name, spans, now):
    quiet, own = spans
    zone = zones.table(name, now - DAY, now + 9 * DAY)
    told = {"from": quiet[0], "to": quiet[1]} if quiet else None
    found = lua.eval(FIND, zone, told, *(own or (None, None)), now)
    allowed = allowed_hours(quiet, own)
    if len(allowed) == 24:
        assert found == []
        return
    local = ZoneInfo(name)

    def is_open(moment):
        return datetime.fromtimestamp(moment, local).hour in allowed

    start, stop, after = found
    assert int(now) <= start < stop < after
    for first, last, expected in ((int(now), start, False), (start, stop, True), (stop, after, False)):
        assert all(is_open(moment) is expected for moment in range(int(first), int(last), STEP))
        assert last == first or is_open(last - 1) is expected
    assert is_open(after)


@pytest.mark.parametrize(
    ("name", "seconds"), [("+05:30", 19_800), ("-0330", -12_600), ("UTC", 0), ("Z", 0), ("+14:00", 50_400)]
)
def test_fixed_offsets_need_no_table(tarantool, lua, name, seconds):
    assert lua.eval("return windows.fixed(...)", name) == [[[0, seconds]]]


@pytest.mark.parametrize("name", ["Mars/Olympus", "+25:00", "05:30", "+05:75"])
def test_what_is_no_offset_is_none(tarantool, lua, name):
    assert lua.eval("return windows.fixed(...) == nil", name) == [True]
