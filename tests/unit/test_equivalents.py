"""What other aggregators have an option for, and here follows from others: docs/comparison.md."""

from __future__ import annotations

import pytest

from aggregator.testing import Harness


def publish(route, *pairs, **more):
    for key, number in pairs:
        route.publish({"n": number}, headers={} if key is None else {"k": key}, **more)


def told(route):
    return [(batch.trigger, batch.key, [one["n"] for one in batch.documents]) for batch in route.batches]


def test_each_new_key_completes_the_one_before():
    with Harness(correlate="header:k", max_groups=1) as route:
        publish(route, ("a", 1), ("a", 2), ("b", 3), ("c", 4))
        assert told(route) == [("pressure", "a", [1, 2]), ("pressure", "b", [3])]


def test_a_message_without_a_key_may_have_one_by_default():
    with Harness(correlate="header:k", on_missing_key="key:others", size=2) as route:
        publish(route, (None, 1), ("a", 2), (None, 3))
        assert told(route) == [("size", "others", [1, 3])]
        assert route.dead_letters == []


def said_to_be_last(members, new):
    return "last" in new.headers


def test_a_predicate_may_look_at_the_new_message_alone():
    with Harness(predicate=f"{__name__}:said_to_be_last") as route:
        publish(route, (None, 1), (None, 2))
        route.publish({"n": 3}, headers={"last": 1})
        publish(route, (None, 4))
        assert told(route) == [("predicate", None, [1, 2, 3])]


def test_a_late_message_may_be_dead_lettered():
    settings = {"correlate": "header:k", "size": 2, "closed_keys": 10, "late": "dead-letter"}
    with Harness(**settings) as route:
        publish(route, ("a", 1), ("a", 2), ("a", 3), ("b", 4))
        assert told(route) == [("size", "a", [1, 2])]
        assert [(letter.reason, letter.delivery.body) for letter in route.dead_letters] == [
            ("late", b'{"n":3}')
        ]


def whole_groups_only(request):
    for item in request:
        if not item.complete:
            request.refuse(item, "incomplete")


def test_incomplete_groups_may_be_refused():
    settings = {"correlate": "header:k", "size": 2, "age": "2s", "breaker_window": 0}
    with Harness(**settings, sink=whole_groups_only) as route:
        publish(route, ("a", 1), ("b", 2), ("b", 3))
        route.advance(2)
        assert [letter.reason for letter in route.dead_letters] == ["incomplete"]
        assert route.totals == {"written": 2, "dead_lettered": 1}


@pytest.mark.parametrize(("rule", "number"), [("first", 1), ("last", 3)])
def test_the_latest_or_the_first_message_of_a_group(rule, number):
    with Harness(correlate="header:k", size=3, aggregate="merge", merge={"*": rule}) as route:
        publish(route, ("a", 1), ("a", 2), ("a", 3))
        assert route.documents == [{"n": number}]


def test_a_batch_tells_its_time_by_stage():
    with Harness(size=2, age="10s", linger="3s", request_items=100) as route:
        publish(route, (None, 1))
        route.advance("1s")
        route.sink.before = lambda items: route.advance("2s")
        publish(route, (None, 2))
        route.settle()
        (report,) = route._process.pipeline.history.last()
        assert (report.collecting, report.queueing, report.writing) == (1.0, 3.0, 2.0)
        assert (report.trigger, report.fill, report.verdicts) == ("size", 1.0, {"written": 2})
