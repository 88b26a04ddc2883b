"""Conditions: when each of them holds, to the instant, and which one goes first."""

from __future__ import annotations

from math import inf

import pytest

from aggregator.completion import Age, Bytes, Condition, Idle, Size, Trigger, any_of
from aggregator.group import Group
from aggregator.testing.memory import MemoryDelivery

NOW = 100.0


def group(*bodies, opened=NOW, last=NOW):
    found = Group("k", opened)
    found.deliveries = [MemoryDelivery(body) for body in bodies]
    found.bytes = sum(map(len, bodies))
    found.last = last
    return found


def delivery(size=1):
    return MemoryDelivery(b"x" * size)


@pytest.mark.parametrize(("members", "complete"), [(1, None), (2, None), (3, Trigger.SIZE)])
def test_size_holds_with_the_last_member(members, complete):
    condition = any_of(Size(3))
    assert condition.after(group(*[b"x"] * members), delivery()) is complete
    assert condition.before(group(*[b"x"] * members), delivery()) is None
    assert condition.deadline(group(b"x")) == (inf, Trigger.AGE)


@pytest.mark.parametrize(
    ("held", "coming", "before", "after"),
    [
        (b"1234", 6, None, None),
        (b"1234", 7, Trigger.BYTES, None),
        (b"123456789", 1, None, None),
        (b"1234567890", 1, Trigger.BYTES, Trigger.BYTES),
        (b"1234567890+", 1, Trigger.BYTES, Trigger.BYTES),
    ],
)
def test_bytes_hold_before_what_no_longer_fits(held, coming, before, after):
    condition = any_of(Bytes(10))
    assert condition.before(group(held), delivery(coming)) is before
    assert condition.after(group(held), delivery(coming)) is after


def test_age_counts_from_the_first_delivery():
    assert any_of(Age(2.5)).deadline(group(b"x", b"y", last=NOW + 2)) == (NOW + 2.5, Trigger.AGE)


def test_idle_counts_from_the_last_delivery():
    assert any_of(Idle(2.5)).deadline(group(b"x", b"y", last=NOW + 2)) == (NOW + 4.5, Trigger.IDLE)


@pytest.mark.parametrize(
    ("last", "when", "what"), [(NOW, NOW + 2, Trigger.IDLE), (NOW + 4, NOW + 5, Trigger.AGE)]
)
def test_the_earliest_deadline_goes_first(last, when, what):
    assert any_of(Age(5), Idle(2)).deadline(group(b"x", last=last)) == (when, what)


def test_the_list_is_the_precedence():
    full = group(b"12345", b"67890")
    assert any_of(Size(2), Bytes(10)).after(full, delivery()) is Trigger.SIZE
    assert any_of(Bytes(10), Size(2)).after(full, delivery()) is Trigger.BYTES
    assert any_of(Age(3), Idle(3)).deadline(full) == (NOW + 3, Trigger.AGE)
    assert any_of(Idle(3), Age(3)).deadline(full) == (NOW + 3, Trigger.IDLE)


def test_without_conditions_nothing_is_ever_complete():
    nothing = any_of()
    assert nothing.before(group(b"x"), delivery()) is None
    assert nothing.after(group(b"x"), delivery()) is None
    assert nothing.deadline(group(b"x")) == (inf, Trigger.AGE)


def test_a_condition_is_only_asked_what_it_says_something_about():
    class Picky(Condition):
        trigger = Trigger.SENTINEL

        def after(self, group, delivery):
            return delivery.body == b"end"

    condition = any_of(Picky())
    assert condition.after(group(b"x"), MemoryDelivery(b"end")) is Trigger.SENTINEL
    assert condition.before(group(b"x"), MemoryDelivery(b"end")) is None
    assert condition.deadline(group(b"x")) == (inf, Trigger.AGE)


def test_what_closes_a_key_and_what_makes_a_part():
    assert {trigger.value for trigger in any_of(Size(1)).closing} == {
        "size",
        "bytes",
        "predicate",
        "sequence",
        "sentinel",
    }
