"""What was seen before, and which tags may be acked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ledger import HELD, IN_FLIGHT, SETTLED, AckWindow, Ledger, Recall, with_followers
from aggregator.testing.memory import MemoryDelivery


def message(fingerprint=7, *, again=False, name=None):
    made = MemoryDelivery(b"x", redelivered=again)
    made.fingerprint = fingerprint
    made.id = str(fingerprint) if name is None else name
    return made


def test_what_has_no_id_is_always_new():
    ledger = Ledger()
    assert ledger.receive(message(0)) == (Recall.NEW, None)
    assert ledger.receive(message(0, again=True)) == (Recall.NEW, None)
    assert len(ledger) == 0


def test_the_same_thing_published_twice_is_two_messages():
    ledger = Ledger()
    first, second = message(), message()
    assert ledger.receive(first)[0] is ledger.receive(second)[0] is Recall.NEW
    ledger.settle([first])
    assert ledger.receive(message())[0] is Recall.NEW


def test_another_body_or_id_is_another_message():
    ledger = Ledger()
    ledger.receive(message(7))
    assert ledger.receive(message(8, again=True))[0] is Recall.NEW


def test_an_update_that_says_the_same_again_is_written():
    """On, off, and on again: the third is no copy of the first, though it reads the same."""
    ledger = Ledger()
    for body in (1, 2):
        update = message(body, name="lamp")
        ledger.receive(update)
        ledger.settle([update])
    assert ledger.receive(message(1, name="lamp", again=True))[0] is Recall.NEW


def test_one_that_says_the_same_as_what_was_given_back_is_written():
    ledger = Ledger()
    first, second = message(1, name="lamp"), message(2, name="lamp")
    ledger.receive(first)
    ledger.settle([first])
    ledger.receive(second)
    ledger.forget([second])
    assert ledger.receive(message(1, name="lamp", again=True))[0] is Recall.NEW


def test_held():
    ledger = Ledger()
    old, new = message(), message(again=True)
    ledger.receive(old)
    assert old.state == HELD
    assert ledger.receive(new) == (Recall.HELD, old)
    newest = message(again=True)
    assert ledger.receive(newest) == (Recall.HELD, new)


def test_in_flight_it_attaches_to_the_verdict():
    ledger = Ledger()
    head = message()
    ledger.receive(head)
    ledger.depart([head])
    copies = [message(again=True) for _ in range(3)]
    assert all(ledger.receive(copy)[0] is Recall.ATTACHED for copy in copies)
    assert all(copy.state == IN_FLIGHT for copy in copies)
    followers = list(with_followers([head]))
    assert followers[0] is head
    assert set(followers[1:]) == set(copies)
    ledger.settle(followers)
    assert {delivery.state for delivery in followers} == {SETTLED}
    assert ledger.unsettled == 0
    assert len(ledger) == 1


def test_settled_it_is_known():
    ledger = Ledger()
    head = message()
    ledger.receive(head)
    ledger.settle([head])
    assert ledger.receive(message(again=True)) == (Recall.SETTLED, None)
    assert ledger.receive(message(again=True)) == (Recall.SETTLED, None), "as often as it comes"


def test_given_back_it_is_new():
    ledger = Ledger()
    head = message()
    ledger.receive(head)
    ledger.forget([head])
    assert ledger.receive(message(again=True))[0] is Recall.NEW


def test_forgetting_an_older_one_spares_the_newer():
    ledger = Ledger()
    old, new = message(), message()
    ledger.receive(old)
    ledger.receive(new)
    ledger.forget([old])
    ledger.settle([old])
    assert ledger.receive(message(again=True)) == (Recall.HELD, new)


def test_an_heir_is_known_instead():
    ledger = Ledger()
    old, heir, stranger = message(), message(), message()
    ledger.receive(old)
    ledger.pass_on(stranger, message())
    ledger.pass_on(old, heir)
    ledger.forget([old])
    assert ledger.receive(message(again=True)) == (Recall.HELD, heir)


def test_the_latest_settled_ones_are_remembered_and_the_memory_is_bounded():
    ledger = Ledger(remember=100)
    for number in range(1, 1001):
        delivery = message(number)
        ledger.receive(delivery)
        ledger.settle([delivery])
        assert len(ledger) <= 200
    for number in range(901, 1001):
        assert ledger.receive(message(number, again=True))[0] is Recall.SETTLED
    assert ledger.receive(message(1, again=True))[0] is Recall.NEW


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_the_latest_are_remembered_however_often_they_were_published(numbers):
    ledger = Ledger(remember=4)
    for number in numbers:
        delivery = message(number)
        ledger.receive(delivery)
        ledger.settle([delivery])
    for number in numbers[-4:]:
        assert ledger.receive(message(number, again=True))[0] is Recall.SETTLED
    assert len(ledger) <= 8


# ── tags ──


def window(*tags, multiple=True):
    found = AckWindow(multiple=multiple)
    for tag in tags:
        found.deliver((tag,))
    return found


@pytest.mark.parametrize(
    ("settled", "upto", "singles"),
    [
        ([1], None, [1]),
        ([3], None, [3]),
        ([1, 2], 2, []),
        ([2, 1], 2, []),
        ([1, 2, 3, 4, 5], 5, []),
        ([2, 3], None, [2, 3]),
        ([1, 2, 4], 2, [4]),
        ([4, 1, 5, 2], 2, [4, 5]),
        ([1, 5], 1, [5]),
        ([], None, []),
        ([9], None, []),
        ([1, 9, 2], 2, []),
        ([1, 1, 2], 2, []),
    ],
)
def test_multiple_never_passes_what_is_unsettled(settled, upto, singles):
    assert window(1, 2, 3, 4, 5).settle(settled) == (upto, singles)


def test_a_hole_that_is_closed_lets_multiple_pass():
    acks = window(1, 2, 3, 4, 5)
    assert acks.settle([2, 3]) == (None, [2, 3])
    assert acks.settle([1, 4]) == (4, [])
    assert len(acks) == 1


def test_what_was_given_back_is_not_acked():
    acks = window(1, 2, 3)
    assert acks.give_back([1, 3, 3, 8]) == [1, 3]
    assert acks.settle([1, 2, 3]) == (None, [2])
    assert len(acks) == 0


def test_where_multiple_is_ignored_each_is_acked():
    acks = window("a", "b", "c", multiple=False)
    assert acks.settle(["a", "b", "a"]) == (None, ["a", "b"])
    assert acks.settle(["c"]) == (None, ["c"])
