"""Clocks: the machine's, and the one that goes when it is told to."""

from __future__ import annotations

import time
from datetime import UTC

import pytest

from aggregator.clock import SYSTEM_CLOCK, utc_now
from aggregator.testing.clock import VirtualClock


def test_the_system_clock_is_the_machines():
    before = time.monotonic(), time.time()
    now = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.time()
    after = time.monotonic(), time.time()
    assert before[0] <= now[0] <= after[0]
    assert before[1] <= now[1] <= after[1]


def test_now_is_aware():
    assert utc_now().tzinfo is UTC


def test_virtual_time_goes_when_told():
    clock = VirtualClock(monotonic=5.0, time=100.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 100.0)
    assert clock.advance(2.5) == 7.5
    assert (clock.monotonic(), clock.time()) == (7.5, 102.5)


def test_virtual_time_never_goes_back():
    clock = VirtualClock()
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-0.1)


def test_a_moment_is_reached_to_the_bit():
    clock = VirtualClock(monotonic=0.1, time=0.0)
    moment = 0.1 + 0.2  # no sum of 0.1 and what is missing
    assert clock.advance_to(moment) == moment
    assert clock.advance_to(0.0) == moment, "what is past stays past"


def test_the_wall_clock_steps_alone():
    clock = VirtualClock(monotonic=5.0, time=100.0)
    clock.step(-30.0)
    assert (clock.monotonic(), clock.time()) == (5.0, 70.0)
