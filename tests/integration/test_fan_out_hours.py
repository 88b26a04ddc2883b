"""A campaign across a change of the clocks: two days of virtual time, devices all around the world."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from producers.campaigns import zones
from tests.conftest import missing
from tests.servers import Unavailable
from tests.servers.base import wait_for
from tests.shard import Shard, user

pytestmark = pytest.mark.integration

START = datetime(2026, 3, 28, 20, 15, tzinfo=UTC)
STEP = timedelta(minutes=15)
#: One zone for each hour, some of them by half and quarter hours; several change their clocks in this night.
NAMES = [
    "Pacific/Pago_Pago", "Pacific/Honolulu", "Pacific/Marquesas", "America/Anchorage", "America/Los_Angeles",
    "America/Denver", "America/Chicago", "America/New_York", "America/Halifax", "America/St_Johns",
    "America/Sao_Paulo", "Atlantic/Azores", "Europe/London", "Europe/Berlin", "Europe/Athens", "Asia/Tehran",
    "Asia/Dubai", "Asia/Karachi", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Shanghai", "Asia/Tokyo",
    "Australia/Lord_Howe", "Pacific/Chatham",
]  # fmt: skip
PREFERRED = [(None, None), (9, 12), (18, 23), (23, 4), (2, 3)]
USERS = 1200
TURN = """
    local now = ...
    virtual = now
    tubes.tick()
"""


def row_of(number):
    first, last = PREFERRED[number % len(PREFERRED)]
    return [*user(number)[:6], NAMES[number % len(NAMES)], first, last, 1_700_000_000]


def allowed(number):
    """Return a device's hours: its own, without those of the night if that leaves any."""
    first, last = PREFERRED[number % len(PREFERRED)]
    loud = {22, 23, *range(8)}
    own = set(range(24)) if first is None else {(first + n) % 24 for n in range((last - first) % 24)}
    return own - loud or own


@pytest.fixture(scope="module")
def alone():
    try:
        shard = Shard(1)
    except Unavailable as why:
        missing(why)
    shard.load(row_of(number) for number in range(USERS))
    shard.writer.eval(
        "rawset(_G, 'virtual', ...) local function now() return virtual end "
        "tubes.clock, relay.clock = now, now",
        START.timestamp(),
    )
    yield shard
    shard.close()


def take_all(client):
    found = []
    while tasks := client.call("tubes.take", ["apns", "fcm"], 0, 100)[0]:
        found += tasks
        for tube, id_, _, data in tasks:
            client.call("tubes.ack", tube, [[id_, {"sent": len(data["recipients"])}]])
    return found


def test_nobody_is_sent_to_outside_of_his_hours(alone):
    span = START.timestamp() - 86_400, START.timestamp() + 10 * 86_400
    tables = {name: zones.table(name, *span) for name in NAMES}
    alone.start("night", zones=tables, quiet={"from": 22, "to": 8}, use_preferred_hours=True)
    wait_for(lambda: alone.progress("night")["a"]["baton"]["finished"], "the walk")
    waiting = alone.progress("night")["a"]["windows"]
    sent = {}
    with closing(alone.writer.client("consumer")) as client, closing(alone.writer.client()) as admin:
        now = START
        while now < START + timedelta(hours=49):
            admin.eval(TURN, now.timestamp())
            for _, _, _, data in take_all(client):
                assert data.get("not_before", 0) <= now.timestamp() < data.get("not_after", 1e12)
                for device, *_ in data["recipients"]:
                    assert device not in sent
                    sent[device] = now
            now += STEP
    assert len(sent) == USERS
    for number in range(USERS):
        moment = sent[user(number)[0]]
        local = moment.astimezone(ZoneInfo(NAMES[number % len(NAMES)]))
        assert local.hour in allowed(number), (number, local)
    assert sum(waiting.values()) == sum(moment > START for moment in sent.values())
    assert {float(at) for at in waiting} <= {moment.timestamp() for moment in sent.values()}
    alone.wait_state("night")


def test_who_has_no_hour_before_the_end_is_skipped(alone):
    tables = {name: [[0, 0]] for name in NAMES}
    alone.writer.eval(TURN, START.timestamp())  # 20:15
    expires = (START + timedelta(hours=1)).timestamp()
    alone.start("short", zones=tables, use_preferred_hours=True, expires=expires)
    with closing(alone.writer.client("consumer")) as client:
        wait_for(lambda: alone.progress("short")["a"]["baton"]["finished"], "the walk")
        devices = {device for *_, data in take_all(client) for device, *_ in data["recipients"]}
    open_now = {user(n)[0] for n in range(USERS) if PREFERRED[n % len(PREFERRED)] in [(None, None), (18, 23)]}
    assert devices == open_now
    assert alone.progress("short")["a"]["skipped"] == {"expired": USERS - len(open_now)}
    alone.wait_state("short")


def test_a_zone_that_is_not_in_the_table_counts_as_utc(alone):
    alone.writer.eval(TURN, START.timestamp())
    alone.start("unknown", zones={}, quiet={"from": 22, "to": 8})
    wait_for(lambda: alone.progress("unknown")["a"]["baton"]["finished"], "the walk")
    with closing(alone.writer.client("consumer")) as client:
        tasks = take_all(client)
    assert sum(len(data["recipients"]) for *_, data in tasks) == USERS
    ends = {data["not_after"] for *_, data in tasks}
    assert ends == {START.replace(hour=22, minute=0).timestamp()}
    assert alone.progress("unknown")["a"]["unknown_zone"] == USERS
