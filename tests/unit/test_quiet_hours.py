"""Quiet hours by the calendar, and a route's rest in them."""

from __future__ import annotations

from datetime import datetime
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from aggregator.errors import ConfigurationError, ConfigurationErrors
from aggregator.quiet_hours import QuietHours, Rest
from aggregator.testing import Harness
from aggregator.testing.clock import VirtualClock
from aggregator.timekeeping import Timekeeper

BERLIN = "Europe/Berlin"


def at(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("text", "moment", "until"),
    [
        ("22:00-07:00", "2026-11-22T21:59:59+01:00", None),
        ("22:00-07:00", "2026-11-22T22:00+01:00", "2026-11-23T07:00+01:00"),
        ("22:00-07:00", "2026-11-23T06:59:59+01:00", "2026-11-23T07:00+01:00"),
        ("22:00-07:00", "2026-11-23T07:00+01:00", None),
        # two stretches that touch, or overlap, are one
        ("22:00-24:00, 00:00-07:00", "2026-11-22T23:00+01:00", "2026-11-23T07:00+01:00"),
        ("22:00-06:00, 05:00-07:00", "2026-11-22T23:00+01:00", "2026-11-23T07:00+01:00"),
        # a Friday's night, a whole weekend (the 21st is a Saturday), a Monday's morning
        ("sat,sun 00:00-24:00, 22:00-07:00", "2026-11-20T22:30+01:00", "2026-11-23T07:00+01:00"),
        ("mon-fri 22:00-07:00", "2026-11-21T03:00+01:00", "2026-11-21T07:00+01:00"),
        ("mon-fri 22:00-07:00", "2026-11-21T23:00+01:00", None),
        # clocks are put forward in it: an hour less; put back: an hour more
        ("22:00-07:00", "2026-03-28T22:00+01:00", "2026-03-29T07:00+02:00"),
        ("22:00-07:00", "2026-10-24T22:00+02:00", "2026-10-25T07:00+01:00"),
        # its end is the hour that is skipped, or begins with the first of the two
        ("22:00-02:30", "2026-03-28T23:00+01:00", "2026-03-29T03:00+02:00"),
        ("02:30-06:00", "2026-10-25T02:30+02:00", "2026-10-25T06:00+01:00"),
        # a stretch within the hour that is skipped is none that day
        ("02:00-03:00", "2026-03-29T03:00+02:00", None),
        ("02:15-02:45", "2026-03-29T03:30+02:00", None),
        ("02:15-02:45", "2026-03-30T02:30+02:00", "2026-03-30T02:45+02:00"),
        ("SAT 20:00-24:00", "2026-11-21T20:00+01:00", "2026-11-22T00:00+01:00"),
    ],
)
def test_until(text, moment, until):
    assert QuietHours(text, BERLIN).until(at(moment)) == (until and at(until))


def test_begins_and_how_it_is_shown():
    hours = QuietHours("mon-fri 22:00-07:00", BERLIN)
    begins = hours.begins(at("2026-11-21T12:00+01:00"))
    assert begins == at("2026-11-23T22:00+01:00")
    assert hours.shown(begins) == "2026-11-23 22:00 Europe/Berlin"


@given(
    st.integers(0, 23), st.integers(0, 59), st.integers(0, 24), st.integers(0, 59),
    st.integers(1_750_000_000, 1_800_000_000),
)  # fmt: skip
def test_quiet_is_what_the_clock_on_the_wall_says(hour, minute, until_hour, until_minute, moment):
    until_minute = 0 if until_hour == 24 else until_minute
    if (hour, minute) in {(until_hour, until_minute), (0, 0)} and until_hour in {hour, 24}:
        return
    hours = QuietHours(f"{hour}:{minute:02}-{until_hour}:{until_minute:02}")
    shows = divmod(moment // 60, 60)
    shows = (shows[0] % 24, shows[1])
    begin, end = (hour, minute), (until_hour, until_minute)
    inside = begin <= shows < end if begin < end else shows >= begin or shows < end
    found = hours.until(moment)
    assert (found is not None) is inside
    assert found is None or (0 < found - moment <= 86_400 and hours.until(found) is None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("at night", "'at night' is no stretch of a day; 22:00-07:00 or sat,sun 00:00-24:00 is needed"),
        ("", "'' is no stretch"),
        ("22:00", "is no stretch"),
        ("25:00-07:00", "is no stretch"),
        ("22:60-07:00", "is no stretch"),
        ("22:00-24:30", "is no stretch"),
        ("24:00-07:00", "'24:00-07:00' begins when it ends"),
        ("22:00-22:00", "begins when it ends; 00:00-24:00 is a whole day"),
        ("fry 22:00-07:00", "'fry' are no days; mon-fri or sat,sun is needed"),
        ("00:00-24:00", "leaves no moment that is not quiet"),
        ("00:00-12:00, 11:00-24:00", "leaves no moment that is not quiet"),
    ],
)
def test_bad_hours(text, problem):
    with pytest.raises(ConfigurationError, match="quiet") as caught:
        QuietHours(text)
    assert problem in caught.value.problem
    with pytest.raises(ConfigurationErrors, match="quiet"):
        Harness(quiet=text)


def test_a_route_rests_at_night():
    with Harness(size=2, quiet="22:00-07:00", time_zone=BERLIN, at="2026-11-22T21:59+01:00") as route:
        route.publish({"n": 1})
        route.advance("1m")
        assert (route.state, route.reason) == ("paused", "quiet until 2026-11-23 07:00 Europe/Berlin")
        assert [document["n"] for document in route.documents] == [1]  # what was held went first
        assert (
            'aggregator_route_quiet{route="default"} 1.0' in generate_latest(route._metrics.registry).decode()
        )
        route.publish({"n": 2})
        route.advance("8h59m")
        assert len(route.queue) == 1
        route.advance("1m")
        route.settle()
        assert (route.state, route.queue, len(route.documents)) == ("running", [], 2)


def test_a_route_that_starts_at_night_takes_nothing():
    with Harness(size=1, quiet=["22:00-24:00", "00:00-07:00"], at="2026-11-22T23:00Z") as route:
        route.publish({"n": 1})
        assert (route.state, len(route.queue)) == ("paused", 1)
        route.advance("8h")
        assert route.documents == [{"n": 1}]


def test_what_a_person_says_counts_for_more():
    with Harness(size=1, quiet="22:00-07:00", at="2026-11-22T21:00Z") as route:
        route.pause()
        route.advance("11h")
        assert (route.state, route.reason) == ("paused", "told to by the test")
        route.resume()
        route.advance("14h")
        assert route.reason.startswith("quiet")
        route.resume()
        route.publish({"n": 1})
        route.advance("1h")
        assert (route.state, len(route.documents)) == ("running", 1)
        route.advance("23h")
        assert route.reason == "quiet until 2026-11-25 07:00 UTC"


def test_a_person_takes_a_night_over():
    with Harness(size=1, quiet="22:00-07:00", at="2026-11-22T23:00Z") as route:
        assert route.state == "paused"
        route.pause()
        route.advance("10h")
        assert (route.state, route.reason) == ("paused", "told to by the test")


def test_a_night_that_was_slept_through_does_not_keep_it():
    with Harness(size=1, quiet="22:00-07:00", at="2026-11-22T23:00Z") as route:
        route.clock.step(24 * 3600)  # suspended, and awake in the next night
        route.advance("1m")
        route.advance("8h30m")
        assert (route.state, route.reason) == ("running", "")


def test_what_went_back_in_the_evening_is_taken_in_the_morning():
    class Route:
        reason = ""
        resumed = 0

        def pause(self, reason):
            self.reason = f"{reason}; what was not written went back: no sink"
            return True

        def resume(self):
            self.resumed += 1
            return True

    route = Route()
    rest = Rest(route, QuietHours("22:00-07:00"))
    assert rest.look(at("2026-11-22T23:00Z")) == at("2026-11-23T07:00Z")
    assert rest.look(at("2026-11-23T07:00Z")) == at("2026-11-23T22:00Z")
    assert route.resumed == 1


def test_the_timekeeper_looks_before_anything_begins_and_survives_a_fault():
    looked, clock = Event(), VirtualClock(time=100.0)
    moments = []

    def broken(_now):
        raise ValueError("a fault")

    def look(now):
        moments.append(now)
        if len(moments) == 2:
            looked.set()
        return now + 0.01

    with Timekeeper([broken, look], clock):
        assert moments == [100.0]
        assert looked.wait(10)
