"""Quiet and preferred hours, in the server's own interpreter, against Python's zoneinfo."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aggregator.push_message import read_push
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
FOLLOWING = """
    local zone, quiet, from, to, now = ...
    local mask = windows.mask(quiet, from, to)
    if mask == nil then return end
    local start, stop, after = windows.find(zone, mask, now)
    return start, stop, windows.following(zone, mask, after)
"""
#: Seconds around a change of clocks at which is looked.
AROUND = [day * DAY + hour * 3_600 + 1 for day in (-2, -1, 0, 1, 2) for hour in range(0, 24, 3)]


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), spans=st.tuples(spans, spans), now=moments)
@example(name="Europe/Berlin", spans=(None, (9, 12)), now=CHANGES[0] - 4 * DAY)
@example(name="Europe/Berlin", spans=((22, 8), None), now=CHANGES[1] - 4 * DAY)
@example(name="Europe/Berlin", spans=(None, (2, 3)), now=CHANGES[0] - 3 * DAY)
@example(name="Europe/Berlin", spans=(None, (23, 4)), now=CHANGES[1] - 3 * DAY)
@example(name="Australia/Lord_Howe", spans=(None, (2, 3)), now=CHANGES[4] - 2 * DAY)
def test_what_is_held_over_a_change_of_clocks_opens_at_its_hour(tarantool, lua, name, spans, now):
    quiet, own = spans
    told = {"from": quiet[0], "to": quiet[1]} if quiet else None
    zone = zones.table(name, now - DAY, now + 200 * DAY)
    found = lua.eval(FOLLOWING, zone, told, *(own or (None, None)), now)
    allowed = allowed_hours(quiet, own)
    if not found:
        assert len(allowed) == 24
        return
    start, stop, later = found
    assert len(later) <= 1 + 4 * (len(zone) - 1)
    local = ZoneInfo(name)

    def is_open(moment):
        return datetime.fromtimestamp(moment, local).hour in allowed

    notification = read_push(
        {
            "campaign": "c", "platform": "fcm", "notification": {"payload": {"a": 1}},
            "recipients": [["d", "t"]], "not_before": start, "not_after": stop, "next_window": later,
        },
        now,
    ).notification  # fmt: skip

    def is_within(moment):
        return all(is_open(moment + by) for by in (-3_600, 0, 3_600))

    # of two windows a day the first alone is kept; hours that a day does not have count as those after them
    whole = sum((hour + 1) % 24 not in allowed for hour in allowed) == 1 and len(allowed) > 2
    ahead = [stop + 1, later[0][0] + 1, *(change + by for change, _ in zone[1:] for by in AROUND)]
    for moment in (moment for moment in ahead if moment > stop):
        due = notification.due(moment)
        assert is_open(due) or (len(allowed) <= 2 and is_open(due - DAY)), "never outside of its hours"
        if whole:
            assert due == moment or not is_within(moment)
            assert not any(map(is_within, range(int(moment) + 1, int(due), STEP))), "as soon as it opens"


@pytest.mark.parametrize(
    ("name", "seconds"), [("+05:30", 19_800), ("-0330", -12_600), ("UTC", 0), ("Z", 0), ("+14:00", 50_400)]
)
def test_fixed_offsets_need_no_table(tarantool, lua, name, seconds):
    assert lua.eval("return windows.fixed(...)", name) == [[[0, seconds]]]


@pytest.mark.parametrize("name", ["Mars/Olympus", "+25:00", "05:30", "+05:75"])
def test_what_is_no_offset_is_none(tarantool, lua, name):
    assert lua.eval("return windows.fixed(...) == nil", name) == [True]
