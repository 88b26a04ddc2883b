"""What a route shows of itself at each moment: oldest group, last write, fill, share of what is refused."""

from __future__ import annotations

import pytest

from aggregator.testing import Harness


def value(route, name):
    registry = route._metrics.registry
    return registry.get_sample_value(f"aggregator_{name}", {"route": route.route.name})


def publish(route, *numbers, **options):
    for number in numbers:
        route.publish({"n": number}, **options)


def test_the_oldest_of_the_open_groups():
    with Harness(size=3, age="10m", correlate="header:k") as route:
        assert value(route, "oldest_group_seconds") == 0
        publish(route, 1, headers={"k": "a"})
        route.advance(10)
        publish(route, 2, headers={"k": "b"})
        route.advance(5)
        assert value(route, "oldest_group_seconds") == 15
        publish(route, 3, 4, headers={"k": "a"})
        route.advance(0)
        assert value(route, "oldest_group_seconds") == 5
        publish(route, 5, 6, headers={"k": "b"})
        route.advance(0)
        assert value(route, "oldest_group_seconds") == 0


def test_when_the_sink_took_something_last():
    with Harness(size=1, at="2030-01-01T00:00:00Z") as route:
        assert value(route, "last_write_timestamp_seconds") == 0
        publish(route, 1)
        route.advance(0)
        first = value(route, "last_write_timestamp_seconds")
        assert first == pytest.approx(1_893_456_000, abs=1)
        route.advance(60)
        assert value(route, "last_write_timestamp_seconds") == first
        route.sink.fail()
        publish(route, 2)
        route.advance(0)
        assert value(route, "last_write_timestamp_seconds") == first
        route.settle()
        assert value(route, "last_write_timestamp_seconds") > first + 59


def test_how_full_a_group_became():
    with Harness(size=4, age="2s") as route:
        publish(route, *range(4))
        publish(route, 4)
        route.advance(3)
        assert value(route, "batch_fill_ratio_count") == 2
        assert value(route, "batch_fill_ratio_sum") == 1.25


def test_the_share_that_stops_the_route():
    with Harness(size=10, breaker_share=0.5, breaker_window=1000) as route:
        assert value(route, "refused_ratio_limit") == 0.5
        for _ in range(20):
            route.publish(b"{", content_type="application/json")
        route.advance(0)
        assert value(route, "refused_ratio") == 0.2, "of a hundred at least"
        publish(route, *range(180))
        route.settle()
        assert value(route, "refused_ratio") == 0.1


def test_without_a_breaker_there_is_no_share():
    with Harness(size=10, breaker_window=0) as route:
        assert value(route, "refused_ratio") is None
        assert value(route, "refused_ratio_limit") is None


def test_what_may_be_held():
    with Harness(size=10, max_held="2MB") as route:
        assert value(route, "held_bytes_limit") == 2_000_000
