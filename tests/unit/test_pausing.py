"""A route that rests: what it holds is written first, nothing goes back, and it takes up again."""

from __future__ import annotations

from aggregator.backoff import Backoff
from aggregator.errors import SinkBlockedError
from aggregator.standing import RouteState, Standing
from aggregator.testing import Harness


def publish(route, *numbers, **options):
    for number in numbers:
        route.publish({"n": number}, **options)


def written(route):
    return [document["n"] for document in route.documents]


def test_what_is_held_is_written_and_nothing_is_given_back():
    with Harness(size=10) as route:
        publish(route, 1, 2)
        route.pause()
        assert (route.state, route.reason) == ("paused", "told to by the test")
        assert (written(route), route.totals, route.queue) == ([1, 2], {"written": 2}, [])
        publish(route, 3)
        route.advance("1h")
        assert (written(route), len(route.queue), route.unacked) == ([1, 2], 1, [])
        route.resume()
        route.settle()
        assert (route.state, written(route), route.totals) == ("running", [1, 2, 3], {"written": 3})


def test_groups_of_keys_go_in_part_and_go_on():
    with Harness(correlate="header:k", size=3, aggregate="list") as route:
        publish(route, 1, 2, headers={"k": "a"})
        route.pause()
        route.resume()
        publish(route, 3, 4, headers={"k": "a"})
        route.settle()
        assert [(batch.trigger, batch.part, batch.documents) for batch in route.batches] == [
            ("forced", 1, [{"n": 1}, {"n": 2}]),
            ("age", 2, [{"n": 3}, {"n": 4}]),
        ]


def test_it_rests_once_the_sink_has_taken_what_is_held():
    with Harness(size=2) as route:
        route.sink.fail()
        publish(route, 1, 2)
        route.pause()
        assert route.state == "pausing"
        publish(route, 3)
        assert len(route.unacked) == 2
        route.settle()
        assert (route.state, written(route), len(route.queue)) == ("paused", [1, 2], 1)


def test_taken_up_again_before_it_rests():
    with Harness(size=2) as route:
        route.sink.fail()
        publish(route, 1, 2)
        route.pause()
        route.resume()
        assert route.state == "running"
        publish(route, 3, 4)
        route.settle()
        assert sorted(written(route)) == [1, 2, 3, 4]
        assert "given_back" not in route.totals


def test_a_sink_that_is_away_gets_everything_given_back_once():
    with Harness(size=2, ack_deadline="4m") as route:
        route.sink.fail(SinkBlockedError("read-only"), times=None)
        publish(route, 1, 2)
        route.pause()
        route.advance("2m")
        assert route.state == "paused"
        assert route.reason.startswith("told to by the test; what was not written went back")
        assert (len(route.queue), route.unacked) == (2, [])


def test_a_route_without_its_sink_rests_at_once_and_is_probed_when_it_takes_up():
    standing = Standing(Backoff(0.1, 1.0), 60.0)
    assert standing.pause("why")
    assert (standing.state, standing.reason, standing.consuming) == (RouteState.PAUSED, "why", False)
    assert not standing.pause("again")
    assert standing.unpause(5.0)
    assert (standing.state, standing.probe_at) == (RouteState.WAITING, float("-inf"))
    assert not standing.unpause(5.0)


def test_what_is_stopped_does_not_rest():
    standing = Standing(Backoff(0.1, 1.0), 60.0)
    standing.stop("a fault")
    assert not standing.pause("why")
    assert not standing.unpause(1.0)
    assert (standing.state, standing.reason) == (RouteState.STOPPED, "a fault")


def test_it_ends_while_it_rests_and_while_it_is_about_to():
    with Harness(size=2) as route:
        publish(route, 1)
        route.pause()
        assert route.stop()
        assert written(route) == [1]
    with Harness(size=2) as route:
        route.sink.fail()
        publish(route, 1, 2)
        route.pause()
        assert route.state == "pausing"
        assert route.stop()
        assert (route.state, written(route), route.queue) == ("draining", [1, 2], [])


def test_it_rests_only_when_nothing_more_comes_over_any_link():
    with Harness(size=2) as route:
        pipeline, link = route._process.pipeline, route._process.workers[0].link
        pipeline.pause("why")
        assert not pipeline.step()
        assert pipeline.state is RouteState.PAUSING
        pipeline.link_quiet(link, quiet=True)
        pipeline.link_quiet(link, quiet=False)
        assert not pipeline.step()
        assert pipeline.state is RouteState.PAUSING
        pipeline.link_quiet(link, quiet=True)
        assert not pipeline.step()
        assert pipeline.state is RouteState.PAUSED
