"""When refused messages are the configuration's fault."""

from __future__ import annotations

import pytest

from aggregator.breaker import LEAST, Breaker


def test_nothing_is_said_on_a_few():
    breaker = Breaker(0.5, 200)
    assert not any(breaker.trips(1) for _ in range(LEAST - 1))
    assert breaker.trips(1)


def test_one_wave_is_enough():
    assert Breaker(0.5, 200).trips(1000)


@pytest.mark.parametrize(("refused", "trips"), [(100, False), (101, True)])
def test_the_share_is_exact(refused, trips):
    breaker = Breaker(0.5, 1000)
    breaker.pass_(200 - refused)
    assert breaker.trips(refused) is trips


def test_a_few_among_many_are_borne_for_ever():
    breaker = Breaker(0.5, 200)
    for _ in range(1000):
        breaker.pass_(99)
        assert not breaker.trips(1)


def test_old_messages_fade():
    breaker = Breaker(0.5, 200)
    breaker.pass_(1_000_000)
    assert sum(not breaker.trips(10) for _ in range(100)) < 40, "a good past excuses nothing for long"


def test_an_old_wave_fades():
    breaker = Breaker(0.5, 200)
    assert breaker.trips(300)
    breaker.pass_(1000)
    assert not breaker.trips(1)


def test_a_window_of_0_switches_it_off():
    breaker = Breaker(0.5, 0)
    assert not any(breaker.trips(1000) for _ in range(10))
