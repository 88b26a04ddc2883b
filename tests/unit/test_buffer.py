"""Open groups: instants, precedence, parts, pressure, sentinels, copies, lost links."""

from __future__ import annotations

import gc
import weakref
from math import inf

import pytest

from aggregator import buffer as buffer_module
from aggregator.buffer import Buffer
from aggregator.completion import Age, Bytes, Idle, Size, Trigger, any_of
from aggregator.testing.memory import MemoryDelivery, MemoryLink

NOW = 100.0


class Message(MemoryDelivery):
    """A delivery that can be watched."""

    __slots__ = ("__weakref__",)


def message(body=b"x", link=None, id_=""):
    delivery = Message(body, link=link or MemoryLink())
    delivery.id = id_
    return delivery


def taken(buffer):
    return [(batch.key, len(batch.deliveries), batch.trigger) for batch in buffer.take()]


def empty(buffer):
    return (buffer.held, buffer.bytes, buffer.groups) == (0, 0, 0)


def test_40_messages_at_size_20_are_two_batches():
    buffer = Buffer(any_of(Size(20)))
    for _ in range(40):
        buffer.add(message(), None, NOW)
    assert taken(buffer) == [(None, 20, Trigger.SIZE)] * 2
    assert empty(buffer)


def test_a_batch_tells_what_it_is():
    buffer = Buffer(any_of(Size(2)))
    first, second = message(b"12"), message(b"345")
    buffer.add(first, "k", NOW)
    buffer.add(second, "k", NOW + 3)
    (batch,) = buffer.take()
    assert batch.deliveries == [first, second]
    assert (batch.key, batch.bytes, batch.part, batch.complete) == ("k", 5, 1, True)
    assert (batch.opened, batch.completed) == (NOW, NOW + 3)
    assert buffer.take() == []


def test_keys_are_counted_apart():
    buffer = Buffer(any_of(Size(2)))
    for key in ("a", "b", "a", None, "", None):
        buffer.add(message(), key, NOW)
    assert taken(buffer) == [("a", 2, Trigger.SIZE), (None, 2, Trigger.SIZE)]
    assert (buffer.held, buffer.groups) == (2, 2)


# ── time ──


@pytest.mark.parametrize(("now", "batches"), [(NOW + 4.999, 0), (NOW + 5, 1), (NOW + 9, 1)])
def test_age_is_due_at_its_instant(now, batches):
    buffer = Buffer(any_of(Age(5)))
    buffer.add(message(), None, NOW)
    assert buffer.next_deadline == NOW + 5
    buffer.advance(now)
    assert len(buffer.take()) == batches


def test_a_group_that_is_due_takes_no_more():
    buffer = Buffer(any_of(Age(5)))
    buffer.add(message(), None, NOW)
    buffer.advance(NOW + 5)  # as the pipeline does before it adds what came at that moment
    buffer.add(message(), None, NOW + 5)
    assert taken(buffer) == [(None, 1, Trigger.AGE)]
    assert buffer.held == 1
    assert buffer.next_deadline == NOW + 10


def test_idle_time_starts_again_with_each_message():
    buffer = Buffer(any_of(Idle(2)))
    for seconds in (0, 1.5, 3.0):
        buffer.advance(NOW + seconds)
        buffer.add(message(), None, NOW + seconds)
    buffer.advance(NOW + 4.999)
    assert buffer.take() == []
    buffer.advance(NOW + 5)
    assert taken(buffer) == [(None, 3, Trigger.IDLE)]


def test_a_steady_trickle_does_not_keep_a_group_from_its_age():
    buffer = Buffer(any_of(Idle(2), Age(5)))
    for second in range(5):
        buffer.advance(NOW + second)
        buffer.add(message(), None, NOW + second)
    buffer.advance(NOW + 5)
    assert taken(buffer) == [(None, 5, Trigger.AGE)]


def test_all_that_is_due_goes_in_order():
    buffer = Buffer(any_of(Age(5)))
    for number in range(50):
        buffer.add(message(), str(number), NOW + number / 10)
    buffer.advance(NOW + 5 + 2)
    assert [batch.key for batch in buffer.take()] == [str(number) for number in range(21)]


def test_timers_of_completed_groups_keep_neither_messages_nor_themselves():
    buffer = Buffer(any_of(Size(1), Age(3600)))
    watched = message()
    gone = weakref.ref(watched)
    buffer.add(watched, "first", NOW)
    del watched
    for number in range(20 * buffer_module.TIMERS_LEAST):
        buffer.add(message(), str(number), NOW)
        buffer.take()
        if not number:
            gc.collect()
            assert gone() is None
    assert len(buffer._timers) <= buffer_module.TIMERS_LEAST + 1


def test_sentinels_with_a_grace_leave_no_timers_behind():
    buffer = Buffer(any_of(Age(3600)), grace=1.0)
    for number in range(5 * buffer_module.TIMERS_LEAST):
        now = NOW + number
        buffer.advance(now)
        buffer.add(message(), str(number), now)
        buffer.add_sentinel(message(), str(number), None, now)
        buffer.take()
    assert len(buffer._timers) <= buffer_module.TIMERS_LEAST + 4


# ── before and after ──


def test_what_no_longer_fits_opens_the_next_group():
    buffer = Buffer(any_of(Bytes(10)))
    for size in (6, 5, 5, 1, 30, 2):
        buffer.add(message(b"x" * size), None, NOW)
    assert [batch.bytes for batch in buffer.take()] == [6, 10, 1, 30]
    assert buffer.bytes == 2


def test_before_goes_before_after():
    buffer = Buffer(any_of(Size(2), Bytes(10)))
    for size in (6, 6):
        buffer.add(message(b"x" * size), None, NOW)
    assert taken(buffer) == [(None, 1, Trigger.BYTES)], "together they would have been two"


# ── parts ──


def test_parts_are_numbered_until_the_key_closes():
    buffer = Buffer(any_of(Size(3), Age(5)))
    found = []
    for now, members in ((NOW, 1), (NOW + 10, 2), (NOW + 20, 3), (NOW + 30, 1)):
        for _ in range(members):
            buffer.add(message(), "k", now)
        buffer.advance(now + 5)
        found += [(batch.part, batch.complete) for batch in buffer.take()]
    assert found == [(1, False), (2, False), (3, True), (1, False)]


def test_messages_without_a_key_have_no_parts():
    buffer = Buffer(any_of(Age(5)))
    for now in (NOW, NOW + 10):
        buffer.add(message(), None, now)
        buffer.advance(now + 5)
    assert [(batch.part, batch.complete) for batch in buffer.take()] == [(1, False), (1, False)]


def test_the_memory_of_parts_is_bounded(monkeypatch):
    monkeypatch.setattr(buffer_module, "PARTS_REMEMBERED", 3)
    buffer = Buffer(any_of(Age(5)))

    def part(key):
        buffer.add(message(), key, NOW)
        buffer.advance(NOW + 5)
        return buffer.take()[0].part

    assert [part(key) for key in "abca"] == [1, 1, 1, 2]
    assert [part(key) for key in "de"] == [1, 1], "a was seen last: b and c go first"
    assert [part(key) for key in "ab"] == [3, 1]


# ── pressure ──


def test_pressure_takes_the_oldest_groups():
    buffer = Buffer(any_of(Size(100)))
    for key in "abcabc":
        buffer.add(message(b"12"), key, NOW)
    buffer.relieve(3, 0, NOW)
    assert taken(buffer) == [("a", 2, Trigger.PRESSURE), ("b", 2, Trigger.PRESSURE)]
    buffer.relieve(0, 1, NOW)
    assert taken(buffer) == [("c", 2, Trigger.PRESSURE)]
    buffer.relieve(5, 5, NOW)
    assert empty(buffer)


def test_pressure_on_nothing_is_nothing():
    buffer = Buffer(any_of(Size(2)))
    buffer.add(message(), "a", NOW)
    buffer.relieve(0, 0, NOW)
    assert buffer.take() == []


# ── sentinels ──


def counted(expected, members, sentinel_at):
    buffer = Buffer(any_of(Age(50)), grace=9)
    for number in range(members + 1):
        if number == sentinel_at:
            buffer.add_sentinel(message(b"end"), "k", expected, NOW)
        if number < members:
            buffer.add(message(id_=str(number)), "k", NOW)
    return buffer


@pytest.mark.parametrize("sentinel_at", [0, 1, 3])
def test_a_counted_sentinel_waits_for_its_members(sentinel_at):
    buffer = counted(3, 3, sentinel_at)
    (batch,) = buffer.take()
    assert (len(batch.deliveries), len(batch.controls)) == (3, 1)
    assert (batch.trigger, batch.complete) == (Trigger.SENTINEL, True)
    assert batch.bytes == 3, "a sentinel is no member"
    assert empty(buffer)


def test_a_counted_sentinel_waits_no_longer_than_the_age():
    buffer = counted(4, 3, 0)
    buffer.advance(NOW + 49)
    assert buffer.take() == []
    buffer.advance(NOW + 50)
    assert taken(buffer) == [("k", 3, Trigger.AGE)]


def test_the_same_member_twice_is_counted_once():
    buffer = Buffer(any_of())
    buffer.add_sentinel(message(), "k", 2, NOW)
    buffer.add(message(id_="a"), "k", NOW)
    buffer.add(message(id_="a"), "k", NOW)
    assert buffer.take() == []
    buffer.add(message(id_="b"), "k", NOW)
    assert taken(buffer) == [("k", 3, Trigger.SENTINEL)]


def test_a_group_of_no_members():
    buffer = Buffer(any_of(Age(5)))
    buffer.add_sentinel(message(), "k", 0, NOW)
    assert taken(buffer) == [("k", 0, Trigger.SENTINEL)]


def test_a_sentinel_without_a_count_completes_at_once():
    buffer = Buffer(any_of(Age(50)))
    buffer.add(message(), "k", NOW)
    buffer.add_sentinel(message(), "k", None, NOW)
    assert taken(buffer) == [("k", 1, Trigger.SENTINEL)]


def test_a_sentinel_without_a_count_grants_its_grace():
    buffer = Buffer(any_of(Age(50)), grace=2)
    buffer.add_sentinel(message(), "k", None, NOW)
    assert buffer.next_deadline == NOW + 2
    buffer.add(message(), "k", NOW + 1)
    buffer.add_sentinel(message(), "k", None, NOW + 1)  # a repeated one prolongs nothing
    buffer.advance(NOW + 1.999)
    assert buffer.take() == []
    buffer.advance(NOW + 2)
    (batch,) = buffer.take()
    assert (len(batch.deliveries), len(batch.controls), batch.trigger) == (1, 2, Trigger.SENTINEL)


def test_the_age_may_come_before_the_grace():
    buffer = Buffer(any_of(Age(1)), grace=2)
    buffer.add(message(), "k", NOW)
    buffer.add_sentinel(message(), "k", None, NOW)
    buffer.advance(NOW + 5)
    assert taken(buffer) == [("k", 1, Trigger.AGE)]


def test_a_late_sentinel_goes_with_its_own_group():
    buffer = Buffer(any_of(Size(1), Age(5)))
    buffer.add(message(), "k", NOW)
    buffer.add_sentinel(message(), "k", 1, NOW)
    assert taken(buffer) == [("k", 1, Trigger.SIZE)]
    buffer.advance(NOW + 5)
    (batch,) = buffer.take()
    assert (len(batch.deliveries), len(batch.controls), batch.trigger) == (0, 1, Trigger.AGE)
    assert empty(buffer)


def test_a_sentinel_does_not_make_the_next_member_no_longer_fit():
    buffer = Buffer(any_of(Bytes(4)), grace=9)
    buffer.add_sentinel(message(b"a long one"), "k", 2, NOW)
    buffer.add(message(b"larger than four"), "k", NOW)
    assert taken(buffer) == [("k", 1, Trigger.BYTES)]


# ── redelivered copies, lost links ──


def test_a_copy_takes_the_place_of_one_whose_link_is_lost():
    buffer, lost = Buffer(any_of(Size(2))), MemoryLink()
    old, new, other = message(link=lost), message(), message()
    buffer.add(old, "k", NOW)
    lost.alive = False
    assert buffer.replace(old, new, "k")
    buffer.add(other, "k", NOW)
    (batch,) = buffer.take()
    assert batch.deliveries == [new, other]
    assert new.follower is None
    assert empty(buffer)


def test_where_the_old_link_seems_alive_both_are_settled():
    buffer = Buffer(any_of(Size(2)))
    old, new = message(b"same"), message(b"same")
    buffer.add(old, "k", NOW)
    assert buffer.replace(old, new, "k")
    assert (buffer.held, buffer.bytes) == (2, 4)
    assert new.follower is old
    buffer.add(message(), "k", NOW)
    (batch,) = buffer.take()
    assert batch.deliveries[0] is new
    assert batch.bytes == 5
    assert empty(buffer)


@pytest.mark.parametrize("which", ["old", "new", "both"])
def test_one_of_two_copies_goes_on_alone(which):
    links = {"old": MemoryLink(), "new": MemoryLink()}
    buffer = Buffer(any_of(Size(9)))
    old, new = message(b"same", links["old"]), message(b"same", links["new"])
    buffer.add(old, "k", NOW)
    buffer.replace(old, new, "k")
    dropped = [buffer.drop(link) for name, link in links.items() if which in {name, "both"}]
    gone = [delivery for entry in dropped for delivery in entry.deliveries]
    if which == "both":
        assert set(gone) == {old, new}
        assert empty(buffer)
        return
    left = new if which == "old" else old
    assert gone == [old if which == "old" else new]
    assert dropped[0].heirs == ([(new, old)] if which == "new" else [])
    assert (buffer.held, buffer.bytes) == (1, 4)
    assert left.follower is None
    buffer.shut(NOW, give_back_keyed=False)
    assert buffer.take()[0].deliveries == [left]


def test_a_third_copy_keeps_the_first_that_lives():
    buffer, lost = Buffer(any_of(Size(9))), MemoryLink()
    first, second, third = message(), message(link=lost), message()
    buffer.add(first, "k", NOW)
    buffer.replace(first, second, "k")
    lost.alive = False
    buffer.replace(second, third, "k")
    assert third.follower is first
    assert buffer.shut(NOW, give_back_keyed=True) == [third, first]
    assert empty(buffer)


def test_a_copy_of_a_sentinel_takes_its_place():
    buffer = Buffer(any_of(Age(5)))
    old, new = message(link=MemoryLink()), message()
    old.link.alive = False
    buffer.add_sentinel(old, "k", 2, NOW)
    assert buffer.replace(old, new, "k")
    assert buffer._groups["k"].controls == [new]


def test_what_is_not_held_is_not_replaced():
    buffer = Buffer(any_of(Size(9)))
    held = message()
    buffer.add(held, "k", NOW)
    assert not buffer.replace(message(), message(), "k")
    assert not buffer.replace(held, message(), "other")
    assert buffer.held == 1


def test_a_lost_link_takes_its_own_and_no_other():
    buffer, lost = Buffer(any_of(Size(9))), MemoryLink()
    mine, others = [message(b"12", lost) for _ in range(3)], [message(b"345") for _ in range(2)]
    for delivery, key in zip([*mine, *others], "aabab", strict=True):
        buffer.add(delivery, key, NOW)
    dropped, heirs = buffer.drop(lost)
    assert (set(dropped), heirs) == (set(mine), [])
    assert (buffer.held, buffer.bytes, buffer.groups) == (2, 6, 2)
    assert buffer.drop(lost) == ([], [])


def test_a_group_that_lost_its_sentinel_waits_for_it_again():
    buffer, lost = Buffer(any_of(Age(50)), grace=2), MemoryLink()
    buffer.add(message(id_="a"), "k", NOW)
    buffer.add_sentinel(message(link=lost), "k", None, NOW)
    buffer.add_sentinel(message(link=lost), "k", 2, NOW)
    buffer.drop(lost)
    buffer.add(message(id_="b"), "k", NOW)
    buffer.advance(NOW + 49)
    assert buffer.take() == []
    buffer.add_sentinel(message(), "k", 2, NOW + 49)
    assert taken(buffer) == [("k", 2, Trigger.SENTINEL)]
    assert empty(buffer)


# ── shutdown ──


def test_incomplete_keyed_groups_are_given_back_and_the_others_flushed():
    buffer = Buffer(any_of(Size(9)))
    keyed, control = message(), message()
    buffer.add(message(), None, NOW)
    buffer.add(keyed, "k", NOW)
    buffer.add_sentinel(control, "k", 5, NOW)
    assert buffer.shut(NOW, give_back_keyed=True) == [keyed, control]
    assert taken(buffer) == [(None, 1, Trigger.SHUTDOWN)]
    assert empty(buffer)


def test_keyed_groups_may_be_flushed_as_well():
    buffer = Buffer(any_of(Size(9)))
    buffer.add(message(), "k", NOW)
    assert buffer.shut(NOW, give_back_keyed=False) == []
    assert taken(buffer) == [("k", 1, Trigger.SHUTDOWN)]


def test_without_conditions_of_time_there_is_no_deadline():
    buffer = Buffer(any_of(Size(9)))
    buffer.add(message(), None, NOW)
    assert buffer.next_deadline == inf
