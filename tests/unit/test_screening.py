"""What is not to be written: at receipt, when a group is flushed, when it is sent again; what is counted."""

from __future__ import annotations

from math import inf

import pytest

from aggregator.intake import Sorted
from aggregator.revocation import REVOKED, Revocations
from aggregator.screening import Screening
from aggregator.sinks.base import Fate, Verdict
from aggregator.testing import Harness
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery

COUNTED = {
    "correlate": "header:order", "aggregate": "list", "sentinel": "type=end", "sentinel_count": "members",
    "size": "none", "age": "none", "idle": "5s",
}  # fmt: skip


def publish(route, *numbers, key=None, **options):
    headers = {"order": key} if key else None
    for number in numbers:
        route.publish({"n": number}, id=f"{key or ''}{number}", headers=headers, **options)


def written(route):
    return [document["n"] for document in route.documents]


# ── without keys ──


def test_what_is_revoked_is_acked_at_receipt_and_not_written():
    with Harness(size=3) as route:
        route.revoke("1", "2")
        publish(route, 1)
        assert (route.totals, route.queue) == ({"revoked": 1}, [])
        assert route._process.pipeline._ledger.unsettled == 0
        publish(route, 3, 4, 2, 5)
        assert written(route) == [3, 4, 5]
        assert route.totals == {"revoked": 2, "written": 3}
        assert [batch.fates for batch in route.batches] == [{"written": 3}]


def test_what_is_revoked_while_it_is_held_goes_when_its_group_does():
    with Harness(size=3) as route:
        publish(route, 1, 2)
        route.revoke("1")
        assert len(route.queue) == 2
        publish(route, 3)
        assert (written(route), route.queue) == ([2, 3], [])
        assert route.totals == {"revoked": 1, "written": 2}
        assert [batch.fates for batch in route.batches] == [{"written": 2, "revoked": 1}]


def test_what_is_revoked_while_the_sink_is_away_is_not_sent_again():
    with Harness(size=2) as route:
        route.sink.fail()
        publish(route, 1, 2)
        route.revoke("1", "2")
        route.settle()
        assert (route.documents, route.queue, route.totals) == ([], [], {"revoked": 2})


def test_a_group_of_nothing_else_is_no_request():
    with Harness(size=2) as route:
        publish(route, 1)
        route.revoke("1", "2")
        route.force()
        assert (route.sink.requests, route.totals) == ([], {"revoked": 1})


def test_a_copy_of_what_is_held_is_no_second_message():
    with Harness(size=3, links=2) as route:
        publish(route, 1, 2, link=0)
        route.revoke("1")
        route.lose_link(0)
        assert route.totals == {"given_back": 2, "revoked": 1}
        publish(route, 3, 4)
        assert sorted(written(route)) == [2, 3, 4]


def test_a_copy_of_what_is_under_way_settles_by_the_same_word():
    with Harness(size=1, links=2) as route:
        route.sink.before = lambda items: (route.lose_link(0), route.revoke("1"))
        publish(route, 1, link=0)
        route.settle()
        assert (written(route), route.queue) == ([1], [])


def test_a_revocation_is_over_after_its_time():
    with Harness(size=1) as route:
        route.revoke("1", ttl="1m")
        route.advance("1m")
        publish(route, 1)
        assert written(route) == [1]


def test_a_refused_message_is_dead_lettered_all_the_same():
    with Harness(size=1) as route:
        route.publish(b"{", id="1", content_type="application/json")
        route.revoke("2")
        route.publish(b"{", id="2", content_type="application/json")
        assert route.totals == {"dead_lettered": 1, "revoked": 1}


# ── with keys: it counts as a member ──


@pytest.mark.parametrize("early", [True, False])
def test_a_counted_group_completes_without_a_revoked_member(early):
    with Harness(**COUNTED) as route:
        if early:
            route.revoke("a2")
        publish(route, 1, 2, key="a")
        if not early:
            route.revoke("a2")
        route.publish(b"", id="end-a", type="end", headers={"order": "a", "members": 3})
        assert route.documents == []
        publish(route, 3, key="a")
        assert route.documents == [{"key": "a", "messages": [{"n": 1}, {"n": 3}]}]
        route.settle()
        assert (route.totals, route.queue) == ({"written": 2, "revoked": 1, "control": 1}, [])
        assert [(batch.trigger, batch.complete) for batch in route.batches] == [("sentinel", True)]


def test_a_key_that_is_revoked():
    with Harness(**COUNTED) as route:
        publish(route, 1, 2, key="a")
        publish(route, 1, key="b")
        route.revoke(keys=["a"])
        for key, members in (("a", 2), ("b", 1)):
            route.publish(b"", id=f"end-{key}", type="end", headers={"order": key, "members": members})
        assert route.documents == [{"key": "b", "messages": [{"n": 1}]}]
        route.settle()
        assert (route.totals, route.queue) == ({"written": 1, "revoked": 2, "control": 2}, [])


def test_documents_of_a_key_one_by_one():
    with Harness(correlate="header:order", size=2) as route:
        route.revoke("a1", keys=["b"])
        for key in "abc":
            publish(route, 1, 2, key=key)
        assert sorted(message.id for message in route.acked) == ["a1", "a2", "b1", "b2", "c1", "c2"]
        assert route.totals == {"written": 3, "revoked": 3}


def test_once_its_document_is_made_a_member_is_in_it():
    with Harness(aggregate="list", size=2) as route:
        route.sink.fail()
        publish(route, 1, 2)
        route.revoke("1")
        route.settle()
        assert route.documents == [{"key": None, "messages": [{"n": 1}, {"n": 2}]}]


def test_a_sentinel_is_not_screened():
    with Harness(**COUNTED) as route:
        route.revoke("end-a")
        publish(route, 1, key="a")
        route.publish(b"", id="end-a", type="end", headers={"order": "a", "members": 1})
        route.settle()
        assert route.totals == {"written": 1, "control": 1}


# ── the parts ──


class Never:
    """A screen that must not be asked."""

    at_receipt = True
    active = False

    def judge(self, key, deliveries):
        raise AssertionError


def sorted_of(*ids):
    result = Sorted()
    for id_ in ids:
        delivery = MemoryDelivery(b"x")
        delivery.id = id_
        result.entries.append((delivery, None, False, None))
    return result


def test_who_has_nothing_to_say_is_not_asked():
    result = sorted_of("1")
    entries = result.entries
    Screening(Never(), Revocations(VirtualClock())).receive(result)
    assert result.entries is entries
    assert Screening(Never()).judge([entries[0][0]]) == []


def test_the_first_screen_has_the_last_word():
    class Later(Never):
        active = True
        asked: tuple[str, ...] = ()

        def judge(self, key, deliveries):
            self.asked = tuple(delivery.id for delivery in deliveries)
            return [(delivery, Verdict(Fate.EXPIRED)) for delivery in deliveries]

    clock = VirtualClock()
    revocations, later = Revocations(clock), Later()
    revocations.revoke({"1": 5.0}, {})
    result = sorted_of("1", "2")
    Screening(revocations, later).receive(result)
    assert [(d.id, verdict.fate) for d, verdict in result.screened] == [
        ("1", Fate.REVOKED), ("2", Fate.EXPIRED),
    ]  # fmt: skip
    assert (later.asked, result.entries) == (("2",), [])


def test_a_slow_screen_is_not_asked_by_workers():
    class Slow(Never):
        active = True
        at_receipt = False

    result = sorted_of("1")
    Screening(Slow()).receive(result)
    assert len(result.entries) == 1


def test_revocations_are_bounded_in_number_and_time():
    clock = VirtualClock()
    revoked = Revocations(clock, most=3)
    assert not revoked.active
    assert revoked.revoke({"1": 10.0, "2": 20.0}, {}) == 0
    assert revoked.revoke({"3": 5.0}, {"k": 5.0}) == 1
    assert revoked.left() == ({"1": 10.0, "2": 20.0}, {})
    assert revoked.revoke({"1": 5.0}, {"k": 30.0}) == 0
    clock.advance(10.0)
    assert revoked.left() == ({"2": 10.0}, {"k": 20.0})
    assert revoked.revoke({"3": inf}, {}) == 0
    assert revoked.restore(["3", "4"], ["k"]) == 2
    clock.advance(10.0)
    assert (revoked.active, len(revoked)) == (False, 0)


def test_a_revoked_key_of_none_is_no_key():
    revoked = Revocations(VirtualClock())
    revoked.revoke({}, {"None": 5.0})
    delivery = MemoryDelivery(b"x")
    delivery.id = "1"
    assert list(revoked.judge(None, [delivery])) == []
    assert list(revoked.judge("None", [delivery])) == [(delivery, REVOKED)]
