"""The harness finds no fault where there is none, whatever is done in whatever order."""

from __future__ import annotations

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from aggregator.testing import Harness

SETTINGS = [
    {"size": 3},
    {"size": 2, "prefetch": 3, "request_items": 1},
    {"size": 3, "correlate": "header:k", "idle": "1s"},
    {"size": 3, "correlate": "header:k", "aggregate": "list:2"},
    {"size": 3, "correlate": "header:k", "aggregate": "function:tests.models:halves"},
    {"size": 2, "correlate": "header:k", "sentinel": "type=end", "sentinel_count": "n", "closed_keys": 5,
     "late": "alone"},
    {"size": 9, "correlate": "header:k", "sentinel": "type=end", "sentinel_count": "n", "aggregate": "list"},
]  # fmt: skip


def odd(document):
    return document.get("n", 0) % 2 == 1


bodies = st.sampled_from([{"n": 0}, {"n": 1}, {"n": 2}, b"", b"\xff", "text"])
ACTIONS = {
    "publish": lambda route, body, key, name: route.publish(body, headers={"k": key}, id=name),
    "end": lambda route, body, key, name: route.publish(b"", type="end", headers={"k": key, "n": 2}, id=name),
    "advance": lambda route, *_: route.advance(0.7),
    "lose one": lambda route, *_: route.lose_link(1),
    "lose all": lambda route, *_: route.lose_link(),
    "lose in a write": lambda route, *_: setattr(route.sink, "before", lambda _items: route.lose_link(0)),
    "crash": lambda route, *_: route.crash(),
    "kill": lambda route, *_: route.sink.kill(written=True),
    "force": lambda route, *_: route.force(),
    "fail": lambda route, *_: route.sink.fail(),
    "away": lambda route, *_: (
        route.sink.fail(times=None),
        route.advance("8m"),
    ),
    "lose reply": lambda route, *_: route.sink.lose_reply(),
    "retry": lambda route, *_: route.sink.retry(odd),
    "refuse": lambda route, *_: route.sink.refuse(odd),
    "refuse all": lambda route, *_: route.sink.refuse_request(odd),
    "too large": lambda route, *_: route.sink.too_large(items=1),
    "heal": lambda route, *_: route.sink.heal(),
    "no dead letters": lambda route, *_: route.lose_dead_letter_queue(),
    "stop": lambda route, *_: (route.stop(), route.start()),
}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@given(
    settings=st.sampled_from(SETTINGS),
    steps=st.lists(
        st.tuples(
            st.one_of(st.just("publish"), st.sampled_from(sorted(ACTIONS))),
            bodies,
            st.sampled_from("ab"),
            st.none() | st.sampled_from("xyz"),
        ),
        max_size=30,
    ),
)
def test_no_false_alarm(settings, steps):
    with Harness(**settings, links=2, breaker_window=0) as route:
        for action, *arguments in steps:
            ACTIONS[action](route, *arguments)
            route.verify()
        route.sink.heal()
        route.sink.before = lambda _items: None
        route.lose_dead_letter_queue(lost=False)
        route.settle()
        assert route.state == "running"
        assert route.queue == []
        assert len(route.acked) == len(route._broker.published)
