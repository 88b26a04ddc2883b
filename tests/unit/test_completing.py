"""How a group completes beyond size, bytes, age and idle; closed keys, late members, bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aggregator.buffer import LATE_ALONE, LATE_REFUSED, Buffer
from aggregator.closed import ClosedKeys
from aggregator.completion import (
    CLOSING,
    Age,
    Bytes,
    Crontab,
    Deadline,
    Idle,
    Interval,
    Predicate,
    Size,
    Trigger,
    any_of,
)
from aggregator.errors import MessageRefusedError
from aggregator.schedule import crontab
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery, MemoryLink


def member(body=b"x", name=""):
    made = MemoryDelivery(body)
    made.id = name
    return made


def fill(buffer, key, *bodies, now=0.0, expected=None):
    for body in bodies:
        buffer.add(member(body), key, now, expected)


def taken(buffer):
    return [
        (batch.key, [d.body for d in batch.deliveries], batch.trigger, batch.part, batch.complete)
        for batch in buffer.take()
    ]


# ── predicate ──


def test_a_predicate_after_adding_makes_the_delivery_the_last():
    buffer = Buffer(any_of(Predicate(lambda members, new: new.body == b"end")))
    fill(buffer, "k", b"a", b"end", b"b")
    assert taken(buffer) == [("k", [b"a", b"end"], Trigger.PREDICATE, 1, True)]
    assert buffer.held == 1


def test_a_predicate_before_adding_makes_the_delivery_the_first_of_the_next():
    buffer = Buffer(any_of(Predicate(lambda members, new: new.body == b"begin", early=True)))
    fill(buffer, "k", b"begin", b"a", b"begin", b"b")
    assert taken(buffer) == [("k", [b"begin", b"a"], Trigger.PREDICATE, 1, True)]


@pytest.mark.parametrize("early", [True, False])
def test_a_predicate_that_raises_refuses_that_delivery_alone(early):
    def predicate(members, new):
        if new.body == b"secret":
            raise KeyError(new.body)
        return False

    buffer = Buffer(any_of(Predicate(predicate, early=early)))
    fill(buffer, "k", b"a")
    with pytest.raises(MessageRefusedError, match="predicate-failed: KeyError") as caught:
        fill(buffer, "k", b"secret")
    assert "secret" not in str(caught.value)
    fill(buffer, "k", b"b")
    assert (buffer.held, buffer.bytes, buffer.groups) == (2, 2, 1)
    buffer.force(0.0)
    assert taken(buffer) == [("k", [b"a", b"b"], Trigger.FORCED, 1, False)]


def test_a_predicate_that_raises_leaves_no_empty_group():
    buffer = Buffer(any_of(Predicate(lambda members, new: 1 / 0)))
    with pytest.raises(MessageRefusedError):
        fill(buffer, "k", b"a")
    assert (buffer.held, buffer.bytes, buffer.groups, taken(buffer)) == (0, 0, 0, [])


def odd(members, new):
    return 1 / 0 if new.body == b"odd" else False


def test_what_a_predicate_refuses_leaves_the_idle_time_and_the_number_as_they_were():
    buffer = Buffer(any_of(Predicate(odd), Idle(5)))
    fill(buffer, "k", b"a")
    with pytest.raises(MessageRefusedError, match="predicate-failed"):
        fill(buffer, "k", b"odd", now=4.0, expected=9)
    fill(buffer, "k", b"b", now=4.5, expected=3)
    buffer.advance(9.5)
    assert taken(buffer) == [("k", [b"a", b"b"], Trigger.IDLE, 1, False)]


def test_what_a_predicate_refuses_completes_no_other_group():
    buffer = Buffer(any_of(Bytes(4), Predicate(odd)), most_groups=1)
    fill(buffer, "k", b"aa")
    for key in ("k", "other"):
        with pytest.raises(MessageRefusedError, match="predicate-failed"):
            fill(buffer, key, b"odd")
    assert (taken(buffer), buffer.held, buffer.bytes, buffer.groups) == ([], 1, 2, 1)


# ── sequence ──


def test_a_sequence_completes_with_its_last_member():
    buffer = Buffer(any_of(Age(10)))
    fill(buffer, "k", b"a", b"b", b"c", b"d", expected=3)
    assert taken(buffer) == [("k", [b"a", b"b", b"c"], Trigger.SEQUENCE, 1, True)]


def test_a_member_is_counted_once_in_a_sequence():
    buffer = Buffer(any_of(Age(10)))
    for name in ("1", "1", "2"):
        buffer.add(member(name=name), "k", 0.0, 2)
    assert [len(batch.deliveries) for batch in buffer.take()] == [3]


def test_members_that_disagree_about_their_number():
    buffer = Buffer(any_of(Age(10)))
    fill(buffer, "k", b"a", expected=3)
    with pytest.raises(MessageRefusedError, match="bad-sequence"):
        fill(buffer, "k", b"b", expected=2)
    assert buffer.held == 1


def test_a_number_that_only_the_next_group_has_is_none_that_differs():
    buffer = Buffer(any_of(Bytes(3)))
    fill(buffer, "k", b"aa", expected=9)
    fill(buffer, "k", b"bb", expected=8)
    assert taken(buffer) == [("k", [b"aa"], Trigger.BYTES, 1, True)]
    assert buffer.held == 1


def test_a_member_is_counted_once_in_a_part_that_went():
    buffer = Buffer(any_of(Age(10)))
    for name in ("1", "1"):
        buffer.add(member(name=name), "k", 0.0, 3)
    buffer.force(1.0)
    for name in ("2", "3"):
        buffer.add(member(name=name), "k", 2.0, 3)
    assert [(len(b.deliveries), b.trigger) for b in buffer.take()] == [
        (2, Trigger.FORCED),
        (2, Trigger.SEQUENCE),
    ]


def test_a_lost_link_takes_no_number_that_other_members_say():
    buffer, lost = Buffer(any_of(Age(10))), MemoryLink()
    buffer.add(MemoryDelivery(b"a", link=lost), "k", 0.0, 3)
    fill(buffer, "k", b"b", expected=3)
    buffer.drop(lost)
    with pytest.raises(MessageRefusedError, match="bad-sequence"):
        fill(buffer, "k", b"c", expected=2)


def test_a_number_is_forgotten_with_the_last_member_that_said_it():
    buffer, lost = Buffer(any_of(Age(10)), grace=5.0), MemoryLink()
    buffer.add_sentinel(member(), "k", None, 0.0)
    buffer.add(MemoryDelivery(b"a", link=lost), "k", 0.0, 3)
    buffer.drop(lost)
    fill(buffer, "k", b"b", b"c", expected=2)
    assert taken(buffer) == [("k", [b"b", b"c"], Trigger.SEQUENCE, 1, True)]


# ── sentinel ──


@pytest.mark.parametrize("count", [None, 2, 5])
def test_a_sequence_goes_before_a_sentinel_and_each_has_its_own_number(count):
    buffer = Buffer(any_of(Age(10)), grace=5.0)
    fill(buffer, "k", b"a", expected=2)
    buffer.add_sentinel(member(b"end"), "k", count, 0.0)
    fill(buffer, "k", b"b", expected=2)
    assert taken(buffer) == [("k", [b"a", b"b"], Trigger.SEQUENCE, 1, True)]


def test_the_count_of_a_sentinel_that_went_with_a_part_holds_until_the_key_closes():
    buffer, lost = Buffer(any_of(Age(10))), MemoryLink()
    fill(buffer, "k", b"a")
    buffer.add_sentinel(member(b"end"), "k", 3, 0.0)
    buffer.advance(10.0)
    fill(buffer, "k", b"b", now=11.0)
    buffer.add_sentinel(MemoryDelivery(b"end", link=lost), "k", 4, 11.0)
    buffer.drop(lost)  # the first was acked, and says what it said
    fill(buffer, "k", b"c", now=12.0)
    assert taken(buffer) == [
        ("k", [b"a"], Trigger.AGE, 1, False),
        ("k", [b"b", b"c"], Trigger.SENTINEL, 2, True),
    ]
    fill(buffer, "k", b"d", b"e", b"f", now=13.0)
    assert taken(buffer) == []


def test_of_equal_times_a_sentinels_grace_goes_before_the_age():
    buffer = Buffer(any_of(Age(5)), grace=5.0)
    fill(buffer, "k", b"a")
    buffer.add_sentinel(member(b"end"), "k", None, 0.0)
    buffer.advance(5.0)
    assert taken(buffer) == [("k", [b"a"], Trigger.SENTINEL, 1, True)]


def test_idle_time_starts_again_with_a_sentinel():
    buffer = Buffer(any_of(Idle(5)))
    fill(buffer, "k", b"a")
    buffer.add_sentinel(member(b"end"), "k", 9, 3.0)
    buffer.advance(7.0)
    assert taken(buffer) == []
    buffer.advance(8.0)
    assert taken(buffer) == [("k", [b"a"], Trigger.IDLE, 1, False)]


# ── time ──


@pytest.mark.parametrize(
    ("expression", "moments"),
    [
        ("30 2 * * *", ["10-25 00:30", "10-26 01:30"]),
        ("15,45 2-3 * * *", ["10-25 00:15", "10-25 00:45", "10-25 02:15", "10-25 02:45", "10-26 01:15"]),
        ("*/30 2 * * *", ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-26 01:00"]),
    ],
)
def test_where_clocks_are_put_back_a_time_of_day_comes_once(expression, moments):
    next_after = crontab(expression, "Europe/Berlin")
    start = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    found = set()
    for minutes in range(0, 300, 5):
        moment = (start + timedelta(minutes=minutes)).timestamp()
        assert next_after(moment) > moment
        found.add(next_after(moment))
    assert [datetime.fromtimestamp(at, UTC).strftime("%m-%d %H:%M") for at in sorted(found)] == moments


def test_an_interval_is_aligned_to_the_wall_clock():
    clock = VirtualClock()
    offset = clock.time() - clock.monotonic()
    buffer = Buffer(any_of(Interval(60, clock)))
    fill(buffer, None, b"a", now=clock.monotonic())
    due = buffer.next_deadline
    assert (due + offset) % 60 == pytest.approx(0, abs=1e-3)
    assert 0 < due - clock.monotonic() <= 60
    buffer.advance(due - 0.01)
    assert taken(buffer) == []
    buffer.advance(due)
    assert taken(buffer) == [(None, [b"a"], Trigger.INTERVAL, 1, False)]


def test_a_crontab_asks_once_for_all_groups_between_two_moments():
    clock = VirtualClock()
    offset = clock.time() - clock.monotonic()
    asked = []

    def next_after(wall):
        asked.append(wall)
        return wall + 100.0

    buffer = Buffer(any_of(Crontab(next_after, clock)))
    start = clock.monotonic()
    for number in range(50):
        fill(buffer, f"k{number}", b"a", now=start + number)
    assert asked == [start + offset]
    assert buffer.next_deadline == pytest.approx(start + 100)
    buffer.advance(start + 100)
    assert {trigger for _, _, trigger, _, _ in taken(buffer)} == {Trigger.CRONTAB}
    fill(buffer, "k", b"a", now=start + 101)
    assert len(asked) == 2


def test_the_deadline_goes_before_a_later_age():
    buffer = Buffer(any_of(Age(100), Deadline(30)))
    fill(buffer, None, b"a", now=5.0)
    buffer.advance(34.9)
    assert taken(buffer) == []
    buffer.advance(35.0)
    assert [trigger for _, _, trigger, _, _ in taken(buffer)] == [Trigger.DEADLINE]


# ── several at once: the order of the list decides ──


@pytest.mark.parametrize(
    ("conditions", "trigger"),
    [
        ((Bytes(4), Size(2)), Trigger.BYTES),
        ((Size(2), Bytes(4)), Trigger.SIZE),
        ((Size(2), Predicate(lambda members, new: True)), Trigger.PREDICATE),
    ],
)
def test_precedence(conditions, trigger):
    buffer = Buffer(any_of(*conditions))
    fill(buffer, None, b"ab", b"cd")
    assert taken(buffer)[0][2] is trigger


def test_of_equal_deadlines_the_first_named_counts():
    for conditions, trigger in (((Age(5), Idle(5)), Trigger.AGE), ((Idle(5), Age(5)), Trigger.IDLE)):
        buffer = Buffer(any_of(*conditions))
        fill(buffer, None, b"a")
        buffer.advance(5.0)
        assert taken(buffer)[0][2] is trigger


# ── closing and parts ──


def test_what_closes_can_be_chosen():
    buffer = Buffer(any_of(Age(5), closing=CLOSING | {Trigger.AGE}), closed=ClosedKeys(10), late=LATE_REFUSED)
    fill(buffer, "k", b"a")
    buffer.advance(5.0)
    assert taken(buffer) == [("k", [b"a"], Trigger.AGE, 1, True)]
    with pytest.raises(MessageRefusedError, match="late"):
        fill(buffer, "k", b"b", now=6.0)


def test_parts_are_counted_until_the_key_closes():
    buffer = Buffer(any_of(Size(2), Age(5)))
    fill(buffer, "k", b"a")
    buffer.advance(5.0)
    fill(buffer, "k", b"b", now=6.0)
    buffer.force(6.0, "k")
    fill(buffer, "k", b"c", b"d", b"e", now=7.0)
    buffer.force(7.0)
    assert [(t, part, complete) for _, _, t, part, complete in taken(buffer)] == [
        (Trigger.AGE, 1, False),
        (Trigger.FORCED, 2, False),
        (Trigger.SIZE, 3, True),
        (Trigger.FORCED, 1, False),
    ]


def test_a_key_that_is_named_twice_is_forced_once():
    buffer = Buffer(any_of(Age(5)))
    fill(buffer, "k", b"x")
    assert buffer.force(1.0, "k", "k") == 1
    assert len(buffer.take()) == 1


def test_force_names_its_keys():
    buffer = Buffer(any_of(Age(5)))
    for key in ("a", "b", "c"):
        fill(buffer, key, b"x")
    assert buffer.force(1.0, "b", "unknown") == 1
    assert buffer.force(1.0) == 2
    assert [key for key, *_ in taken(buffer)] == ["b", "a", "c"]


# ── late ──


def test_late_members_go_alone():
    buffer = Buffer(any_of(Size(2)), closed=ClosedKeys(10), late=LATE_ALONE)
    fill(buffer, "k", b"a", b"b", b"c", b"d")
    assert taken(buffer) == [
        ("k", [b"a", b"b"], Trigger.SIZE, 1, True),
        ("k", [b"c"], Trigger.LATE, 1, False),
        ("k", [b"d"], Trigger.LATE, 1, False),
    ]
    assert (buffer.held, buffer.bytes, buffer.groups) == (0, 0, 0)


def test_late_members_open_a_new_group_unless_told_otherwise():
    buffer = Buffer(any_of(Size(2)), closed=ClosedKeys(10))
    fill(buffer, "k", b"a", b"b", b"c", b"d")
    assert [trigger for _, _, trigger, _, _ in taken(buffer)] == [Trigger.SIZE, Trigger.SIZE]


def test_a_repeated_sentinel_waits_for_nobody():
    buffer = Buffer(any_of(Age(100)), closed=ClosedKeys(10))
    fill(buffer, "k", b"a")
    buffer.add_sentinel(member(b"end"), "k", 1, 0.0)
    buffer.add_sentinel(member(b"end"), "k", 1, 1.0)
    batches = buffer.take()
    assert [(len(b.deliveries), len(b.controls), b.trigger) for b in batches] == [
        (1, 1, Trigger.SENTINEL),
        (0, 1, Trigger.LATE),
    ]
    assert (buffer.held, buffer.bytes, buffer.groups) == (0, 0, 0)


# ── bounds ──


def test_closed_keys_are_bounded_in_number_and_time():
    closed = ClosedKeys(3, 10.0)
    for number in range(5):
        closed.close(f"k{number}", float(number))
    assert [closed.holds(f"k{number}", 4.0) for number in range(5)] == [False, False, True, True, True]
    assert len(closed) == 3
    closed.close("k2", 5.0)  # anew: it is the youngest now
    assert not closed.holds("k3", 13.0)
    assert closed.holds("k4", 13.9)
    assert closed.holds("k2", 14.9)
    assert not closed.holds("k2", 15.0)
    assert len(closed) == 0
    assert not closed.holds(None, 0.0)


def test_nothing_is_remembered_by_default():
    closed = ClosedKeys()
    closed.close("k", 0.0)
    assert not closed.holds("k", 0.0)


def test_more_groups_than_allowed_complete_the_oldest():
    buffer = Buffer(any_of(Size(10)), most_groups=3)
    for number in range(5):
        fill(buffer, f"k{number}", b"x", now=float(number))
    assert [(key, trigger) for key, _, trigger, _, _ in taken(buffer)] == [
        ("k0", Trigger.PRESSURE),
        ("k1", Trigger.PRESSURE),
    ]
    assert buffer.groups == 3


def test_a_group_that_is_complete_at_once_takes_no_other_ones_room():
    buffer = Buffer(any_of(Size(2), Predicate(lambda members, new: new.body == b"end")), most_groups=1)
    fill(buffer, "a", b"x")
    fill(buffer, "b", b"end")
    buffer.add_sentinel(member(b"end"), "c", None, 0.0)
    assert [key for key, *_ in taken(buffer)] == ["b", "c"]
    fill(buffer, "d", b"x")
    assert [(key, trigger) for key, _, trigger, _, _ in taken(buffer)] == [("a", Trigger.PRESSURE)]


def test_many_more_groups_than_allowed_stay_within_the_bound():
    buffer = Buffer(any_of(Size(10)), most_groups=200)
    for number in range(4000):
        fill(buffer, str(number), b"x")
    assert buffer.groups <= 200
    assert len(buffer.take()) + buffer.groups == 4000


def test_wall_clock_moments_are_those_of_the_calendar():
    clock = VirtualClock()
    moment = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC).timestamp()
    group_opened = moment - (clock.time() - clock.monotonic())
    buffer = Buffer(any_of(Interval(3600, clock)))
    fill(buffer, None, b"x", now=group_opened)
    assert buffer.next_deadline - group_opened == pytest.approx(3570)
