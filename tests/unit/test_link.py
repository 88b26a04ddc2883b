"""A link settles each tag once, on its own channel, and in as few acks as are safe."""

from __future__ import annotations

import threading
from math import inf

import pytest

from aggregator.delivery import Settlement
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery, MemoryLink
from consumers.link import HOLD_SECONDS, ChannelLink


class Channel:
    """Records what a broker would see."""

    def __init__(self):
        self.sent = []

    def basic_ack(self, tag, multiple=False):
        self.sent.append(("ack", tag, multiple))

    def basic_reject(self, tag, requeue):
        self.sent.append(("reject", tag, requeue))


class BatchChannel(Channel):
    def ack_many(self, tags):
        self.sent.append(("ack_many", list(tags)))


@pytest.fixture
def clock():
    return VirtualClock()


def opened(clock, channel=None, *, multiple=True, tags=10):
    woken = []
    link = ChannelLink(channel or Channel(), 1, multiple=multiple, wake=lambda: woken.append(1), clock=clock)
    link.woken = woken
    for tag in range(1, tags + 1):
        link.delivered((tag,))
    return link


def deliveries(link, *tags):
    return [MemoryDelivery(b"", link=link, tag=tag) for tag in tags]


def nothing(_lag):
    pass


def test_one_ack_for_all_below_the_oldest_unsettled(clock):
    link = opened(clock)
    link.settle(deliveries(link, 1, 2, 3), Settlement.ACK)
    assert link.perform(nothing) == 3
    assert link._channel.sent == [("ack", 3, True)]
    assert link.unsettled == 7


def test_what_stands_above_an_unsettled_tag_waits_and_one_ack_is_enough(clock):
    link = opened(clock)
    lags = []
    link.settle(deliveries(link, 1, 2, 5, 4), Settlement.ACK)
    link.perform(lags.append)
    assert link._channel.sent == [("ack", 2, True)]
    assert link.unsettled == 8
    assert link.unsent
    assert lags == []
    clock.advance(HOLD_SECONDS / 2)
    link.settle(deliveries(link, 3), Settlement.ACK)
    link.perform(lags.append)
    assert link._channel.sent[1:] == [("ack", 5, True)]
    assert lags == pytest.approx([HOLD_SECONDS / 2, 0.0])
    assert not link.unsent
    assert link.held_until == inf


@pytest.mark.parametrize("flush", [False, True])
def test_it_does_not_wait_for_ever(clock, flush):
    link = opened(clock)
    link.settle(deliveries(link, 1, 2, 5, 7), Settlement.ACK)
    link.perform(nothing)
    assert link.held_until == clock.monotonic() + HOLD_SECONDS
    if not flush:
        clock.advance(HOLD_SECONDS)
    link.perform(nothing, flush=flush)
    assert link._channel.sent == [("ack", 2, True), ("ack", 5, False), ("ack", 7, False)]
    assert not link.unsent


def test_a_tag_is_settled_once(clock):
    link = opened(clock)
    for _ in range(2):
        link.settle(deliveries(link, 1, 2), Settlement.ACK)
    link.settle(deliveries(link, 2), Settlement.GIVE_BACK)
    link.perform(nothing)
    assert link._channel.sent == [("ack", 2, True)]


def test_a_transport_that_ignores_multiple_gets_single_acks(clock):
    link = opened(clock, multiple=False)
    link.settle(deliveries(link, 1, 2), Settlement.ACK)
    link.perform(nothing)
    assert link._channel.sent == [("ack", 1, False), ("ack", 2, False)]


def test_a_transport_that_takes_many_at_once_gets_them_so(clock):
    link = opened(clock, BatchChannel(), multiple=False)
    link.settle(deliveries(link, 1, 2), Settlement.ACK)
    link.perform(nothing)
    assert link._channel.sent == [("ack_many", [1, 2])]


def test_given_back_one_by_one(clock):
    link = opened(clock)
    link.settle(deliveries(link, 2, 4), Settlement.GIVE_BACK)
    link.perform(nothing)
    assert link._channel.sent == [("reject", 2, True), ("reject", 4, True)]
    assert link.unsettled == 8


def test_the_tag_of_another_link_is_never_used(clock):
    link = opened(clock)
    link.settle([*deliveries(MemoryLink(2), 1, 2), *deliveries(link, 3)], Settlement.ACK)
    assert link.perform(nothing, flush=True) == 1
    assert link._channel.sent == [("ack", 3, False)]


def test_a_dead_link_takes_nothing_and_wakes_nobody(clock):
    link = opened(clock)
    link.alive = False
    link.settle(deliveries(link, 1), Settlement.ACK)
    assert link.perform(nothing) == 0
    assert link._channel.sent == []
    assert link.woken == []


def test_asking_wakes_the_owner_and_sends_nothing(clock):
    link = opened(clock)
    thread = threading.Thread(target=link.settle, args=(deliveries(link, 1), Settlement.ACK))
    thread.start()
    thread.join()
    assert link.woken == [1]
    assert link._channel.sent == []


def test_the_lag_is_that_from_asking_to_sending(clock):
    link = opened(clock)
    link.settle(deliveries(link, 1), Settlement.ACK)
    clock.advance(0.25)
    link.settle(deliveries(link, 2), Settlement.ACK)
    lags = []
    link.perform(lags.append)
    assert lags == [0.25, 0.0]


def test_the_lag_of_what_is_given_back_is_told_too(clock):
    link = opened(clock)
    link.settle(deliveries(link, 3), Settlement.GIVE_BACK)
    lags = []
    link.perform(lags.append)
    assert lags == [0.0]


def test_an_error_of_the_channel_goes_to_the_caller(clock):
    class Closed(Channel):
        def basic_ack(self, tag, multiple=False):
            raise ConnectionError("gone")

    link = opened(clock, Closed())
    link.settle(deliveries(link, 1), Settlement.ACK)
    with pytest.raises(ConnectionError):
        link.perform(nothing)
