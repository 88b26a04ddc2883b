"""Pauses that grow."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.backoff import Backoff


class Extreme(Random):
    """Draws the same end of every range."""

    def __init__(self, end):
        super().__init__()
        self.end = end

    def uniform(self, a, b):
        return (a, b)[self.end]


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.1), (2, 0.2), (3, 0.4), (9, 25.6), (10, 30.0)])
def test_a_pause_doubles_up_to_the_longest(failures, longest):
    assert Backoff(0.1, 30.0, Extreme(1)).pause(failures) == pytest.approx(longest)
    assert Backoff(0.1, 30.0, Extreme(0)).pause(failures) == pytest.approx(longest / 2)


@given(failures=st.integers(1, 10**9), first=st.floats(0.001, 10), longest=st.floats(0.001, 100))
def test_a_pause_is_never_nothing_and_never_too_long(failures, first, longest):
    assert 0 < Backoff(first, longest).pause(failures) <= longest


def test_those_who_failed_together_come_apart():
    backoff = Backoff(1.0, 1.0, Random(7))
    assert len({backoff.pause(1) for _ in range(100)}) == 100


def test_another_first_pause():
    again = Backoff(0.1, 30.0, Extreme(1)).starting_at(4.0)
    assert (again.pause(1), again.pause(2), again.longest) == (4.0, 8.0, 30.0)
