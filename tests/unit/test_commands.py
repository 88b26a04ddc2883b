"""What a running service can be told: what it answers, what it refuses and how it says so."""

from __future__ import annotations

import pytest

from aggregator.commands import MOST_NAMES, Commands, Controlled
from aggregator.revocation import MOST
from aggregator.testing import Harness
from aggregator.units import DURATION_HELP

KNOWN = "ping, stats, groups, flush, pause, resume, revoke, set"
ORDERS = "'oldest', 'fullest' or 'largest'"
NEVER_FILLED = (
    "1 x prefetch 100 = 100 messages never fill a group of 1000;"
    " at least 1000 is needed, or a size of 100 at most"
)


class Stage:
    """Routes in memory, and the commands over them."""

    def __init__(self, *harnesses, **settings):
        self.routes = list(harnesses) or [Harness(**{"size": 10, "prefetch": 100, **settings})]
        self.commands = Commands(
            {f"r{n}": self.controlled(f"r{n}", route) for n, route in enumerate(self.routes)},
            totals=lambda: {"r0": self.routes[0].totals},
            clock=self.routes[0].clock,
            process=77,
        )

    @staticmethod
    def controlled(name, harness):
        return Controlled(harness.route.model_copy(update={"name": name}), harness._process.pipeline)

    def publish(self, count, key=None, route=0):
        for n in range(count):
            headers = {"k": key} if key else {}
            self.routes[route].publish({"n": n}, id=f"{key or ''}{n}", headers=headers)

    def ok(self, command, **arguments):
        answer = self.commands.answer(command, arguments)
        for route in self.routes:
            route.advance(0)
        assert set(answer) == {"ok"}, answer
        return answer["ok"]

    def refused(self, command, **arguments):
        answer = self.commands.answer(command, arguments)
        assert set(answer) == {"refused"}, answer
        return answer["refused"]


def keyed(**settings):
    return Stage(correlate="header:k", **settings)


# ── looking ──


def test_ping():
    stage = Stage()
    stage.routes[0].advance(3)
    assert stage.ok("ping") == [{"process": 77, "seconds": 3.0, "routes": ["r0"]}]


def test_stats_tell_what_is_held_and_what_became_of_the_rest():
    stage = Stage()
    stage.publish(12)
    stage.ok("revoke", ids=["x"])
    (row,) = stage.ok("stats")
    assert (row["route"], row["state"], row["reason"]) == ("r0", "running", "")
    assert (row["held_messages"], row["held_groups"], row["revoked"]) == (2, 1, 1)
    assert row["verdicts"] == {"written": 10}


def test_groups_by_age_and_size():
    stage = keyed(age="60s")
    stage.publish(1, "old")
    stage.routes[0].advance(5)
    stage.publish(3, "full")
    stage.publish(2, "k" * 500)
    oldest, *_ = stage.ok("groups")
    assert oldest == {
        "route": "r0", "key": "old", "messages": 1, "sentinels": 0, "expected": None, "bytes": 7,
        "age": 5.0, "idle": 5.0,
    }  # fmt: skip
    assert [row["key"] for row in stage.ok("groups", by="fullest", limit=2)] == ["full", "k" * 200]
    assert [row["messages"] for row in stage.ok("groups", route="r0", by="largest")] == [3, 2, 1]


# ── doing ──


def test_flush():
    stage = keyed()
    for key in "abc":
        stage.publish(1, key)
    assert stage.ok("flush", route="r0", keys=["a", "x"]) == [{"route": "r0", "groups": 1}]
    assert stage.ok("flush") == [{"route": "r0", "groups": 2}]
    assert stage.routes[0].totals == {"written": 3}


def test_pause_and_resume():
    stage = Stage(Harness(size=5), Harness(size=5))
    stage.publish(2)
    assert [row["state"] for row in stage.ok("pause", route="r0")] == ["pausing"]
    assert [row["state"] for row in stage.ok("stats")] == ["paused", "running"]
    assert [row["state"] for row in stage.ok("pause")] == ["paused", "pausing"]
    assert [row["state"] for row in stage.ok("resume")] == ["waiting", "waiting"]
    assert [row["state"] for row in stage.ok("stats")] == ["running", "running"]
    assert stage.routes[0].totals == {"written": 2}


def test_what_is_stopped_can_be_neither_paused_nor_resumed():
    stage = Stage()
    stage.routes[0]._process.pipeline.stop("most messages are refused")
    assert stage.refused("pause") == "route r0 is stopped: most messages are refused"
    expected = "route r0 is stopped: most messages are refused; start the process again"
    assert stage.refused("resume") == expected


def test_revoke():
    stage = Stage(Harness(size=1), Harness(correlate="header:k", size=1))
    assert stage.ok("revoke", ids=["1"], keys=["k"], ttl="1m") == [
        {"route": "r0", "revoked": 1, "seconds": 60.0},
        {"route": "r1", "revoked": 2, "seconds": 60.0},
    ]
    stage.publish(2)
    stage.publish(1, "k", route=1)
    assert stage.routes[0].totals == {"written": 1, "revoked": 1}
    assert stage.routes[1].totals == {"revoked": 1}
    assert stage.ok("revoke", route="r1", keys=["k"], undo=True) == [{"route": "r1", "restored": 1}]
    stage.publish(1, "k", route=1)
    assert stage.routes[1].totals == {"revoked": 1, "written": 1}


def test_who_starts_is_told_what_is_revoked():
    old, new = keyed(), keyed()
    old.ok("revoke", ids=["1"], keys=["k"], ttl="1m")
    old.routes[0].advance("15s")
    rows = old.ok("hello", node="new")
    assert rows == [{"route": "r0", "ids": {"1": 45.0}, "keys": {"k": 45.0}}]
    assert new.commands.adopt(rows) == 2
    assert new.ok("hello") == rows


@pytest.mark.parametrize(
    "rows",
    [None, {}, [None], [{}], [{"route": "other", "ids": {"1": 1.0}, "keys": {}}],
     [{"route": ["r0"]}], [{"route": "r0", "ids": ["1"], "keys": {}}],
     [{"route": "r0", "ids": {"1": -1}, "keys": {}}], [{"route": "r0", "ids": {"1": "x"}, "keys": {}}]],
)  # fmt: skip
def test_what_others_say_is_not_believed_blindly(rows):
    stage = Stage()
    assert stage.commands.adopt(rows) == 0
    assert stage.ok("hello") == []


def test_set_holds_at_once_for_open_groups_too():
    stage = keyed(age="60s")
    stage.publish(4, "a")
    stage.publish(1, "b")
    now = {"route": "r0", "size": 3, "bytes": 10_000_000, "age": 2.0, "idle": None}
    assert stage.ok("set", route="r0", values={"size": "3", "age": "2s"}) == [now]
    route = stage.routes[0]
    assert [(batch.trigger, len(batch.messages)) for batch in route.batches] == [("size", 4)]
    route.advance(2)
    assert [batch.trigger for batch in route.batches] == ["size", "age"]
    stage.publish(3, "c")
    assert len(route.batches) == 3
    assert route._process.pipeline.history.last()[-1].fill == 1.0
    assert stage.ok("set", route="r0", values={"idle": "1s"})[0]["size"] == 3


def test_a_group_waits_longer_by_a_longer_age():
    stage = Stage(age="2s")
    stage.publish(1)
    stage.ok("set", route="r0", values={"age": "5s"})
    stage.routes[0].advance(4.9)
    assert stage.routes[0].batches == []
    stage.routes[0].advance(0.1)
    assert [batch.age for batch in stage.routes[0].batches] == [5.0]


# ── what is refused ──


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"size": "0"}, "size: '0' is too small; at least 1 is needed"),
        ({"size": "many"}, "size: 'many' is something else; a whole number is needed"),
        ({"age": "2"}, f"age: 2 has no unit; {DURATION_HELP}"),
        ({"age": "20m"}, "age: 20m is more than half the ack deadline of 30m; 15m at most"),
        ({"size": "1000"}, f"prefetch: {NEVER_FILLED}"),
        ({"sise": "5"}, "sise: no such setting; did you mean size?"),
        ({"sink": "x"}, "sink: it cannot be changed while the route runs, only size, bytes, age, idle can"),
        ({"nothing": "x"}, "nothing: no such setting; size, bytes, age, idle can be set"),
        ({}, "values: nothing is set; size, bytes, age, idle can be"),
    ],
)  # fmt: skip
def test_set_is_checked_as_the_configuration_is(values, why):
    stage = Stage(age="2s")
    assert stage.refused("set", route="r0", values=values) == why
    stage.publish(1)
    stage.routes[0].advance(2)
    assert [batch.trigger for batch in stage.routes[0].batches] == ["age"]


@pytest.mark.parametrize(
    ("command", "arguments", "why"),
    [
        ("shutdown", {}, f"'shutdown' is no command; {KNOWN} are"),
        ("__init__", {}, f"'__init__' is no command; {KNOWN} are"),
        ("ping", {"x": 1}, "x: no such argument; none can be given"),
        ("stats", {"route": "no"}, "route: there is none of the name 'no'; r0 are here"),
        ("stats", {"route": 5}, "route: 5 is something else; a text is needed"),
        ("groups", {"by": "age"}, f"by: 'age' is unknown; {ORDERS} is needed; did you mean largest?"),
        ("groups", {"limit": 5000}, "limit: 5000 is too large; at most 1000 is needed"),
        ("flush", {"route": "r0", "keys": ["a"]}, "keys: route r0 has no keys; without one all is one group"),
        ("revoke", {}, "ids: nothing is named; ids of messages, or keys, are needed"),
        ("revoke", {"keys": ["a"]}, "keys: no route here has keys; name ids of messages"),
        ("revoke", {"ids": ["1"], "ttl": "8d"}, "ttl: '8d' is too large; at most 604800s is needed"),
        ("revoke", {"ids": ["1"], "ttl": "3"}, f"ttl: 3 has no unit; {DURATION_HELP}"),
        ("set", {"route": "r0", "values": [1]}, "values: something else"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(command, arguments, why):
    said = Stage().refused(command, **arguments)
    assert said == why or (why.endswith("something else") and said.startswith("values: "))


def test_more_than_fits_is_refused_and_nothing_is_forgotten():
    stage = Stage()
    for block in range(MOST // MOST_NAMES):
        stage.ok("revoke", ids=[f"{block}-{n}" for n in range(MOST_NAMES)])
    why = stage.refused("revoke", ids=["new", "0-0"])
    assert why.startswith(f"route r0: {MOST} ids and keys may be revoked at once, these are 1 too many")
    assert stage.ok("stats")[0]["revoked"] == MOST
    assert "ids: " in stage.refused("revoke", ids=["x"] * (MOST_NAMES + 1))


def test_keys_of_several_routes_need_the_route():
    stage = Stage(Harness(correlate="header:k"), Harness(correlate="header:k"))
    assert stage.refused("flush", keys=["a"]) == "route: of which are these keys? r0, r1 are here"


def test_a_fault_of_ours_is_told_by_its_kind():
    stage = Stage()
    stage.commands._totals = lambda: 1 / 0
    assert stage.refused("stats") == "an internal error (ZeroDivisionError); see the log"
