"""What the live page knows: a look at a route, why it waits, counts and rates, several processes as one."""

from __future__ import annotations

import json
import threading
from math import inf

import pytest

from aggregator.completion import Condition, Trigger
from aggregator.history import KEPT_REFUSALS, History
from aggregator.look import Look
from aggregator.page.counts import LONGEST, Counts, Rates, counted
from aggregator.page.joined import FRESH
from aggregator.page.reasons import EXPLANATIONS, UNKNOWN, explain
from aggregator.page.view import MOST_BATCHES, MOST_GROUPS, MOST_REFUSALS, MOST_TEXT
from aggregator.page.waiting import Place, cause_of, duration
from aggregator.ports import Refused
from aggregator.standing import RouteState
from aggregator.testing import Harness
from tests.live_page import Stage


def keyed(**settings):
    return Stage(
        orders=Harness(correlate="header:k", **{"size": 10, "age": "60s", "prefetch": 500, **settings})
    )


def hold(stage, key, count=1):
    for n in range(count):
        stage.harnesses["orders"].publish({"n": n}, headers={"k": key})


# ── open groups ──


def test_groups_say_how_full_they_are_and_when_they_complete():
    stage = keyed()
    hold(stage, "old", 2)
    stage.clock.advance(10)
    hold(stage, "full", 9)
    route = stage.route()
    oldest, fullest = route["groups"]["oldest"], route["groups"]["fullest"]
    assert [row["key"] for row in oldest] == ["old", "full"]
    assert [row["key"] for row in fullest] == ["full", "old"]
    assert (route["held"]["groups"], route["held"]["messages"]) == (2, 11)
    assert {name: oldest[0][name] for name in ("messages", "age", "fill", "due", "trigger", "expected")} == {
        "messages": 2, "age": 10.0, "fill": 0.2, "due": 50.0, "trigger": "age", "expected": None,
    }  # fmt: skip
    assert fullest[0]["fill"] == 0.9


def test_the_condition_that_comes_first_is_named():
    stage = keyed(idle="5s")
    hold(stage, "a")
    stage.clock.advance(2)
    (row,) = stage.route()["groups"]["oldest"]
    assert (row["due"], row["trigger"], row["idle"]) == (3.0, "idle", 2.0)


def test_a_group_that_knows_its_number_is_as_full_as_that():
    stage = keyed(sequence="header:count")
    stage.harnesses["orders"].publish({}, headers={"k": "a", "count": 4})
    (row,) = stage.route()["groups"]["fullest"]
    assert (row["expected"], row["fill"]) == (4, 0.25)
    stage.harnesses["orders"].advance("61s")  # it goes in part
    stage.harnesses["orders"].publish({}, headers={"k": "a", "count": 4})
    (row,) = stage.route()["groups"]["fullest"]
    assert (row["messages"], row["fill"]) == (1, 0.5)


def test_without_a_time_nothing_but_messages_completes_a_group():
    stage = Stage(orders=Harness(size=10, age="off", deadline_share="off", prefetch=100))
    stage.harnesses["orders"].publish({})
    route = stage.route()
    (row,) = route["groups"]["oldest"]
    assert (row["due"], row["trigger"], row["key"]) == (None, None, None)
    stage.clock.advance(10)
    assert stage.route()["why"] == "1 message in 1 group wait for more; no time ends the wait."


class Asked(Condition):
    """Counts how often it is asked when a group will be complete."""

    trigger = Trigger.AGE

    def __init__(self):
        self.times = 0

    def deadline(self, group):
        self.times += 1
        return inf


def test_a_look_at_many_groups_asks_about_those_that_are_shown_alone():
    stage = keyed(prefetch=5_000, size=100)
    for n in range(2_000):
        stage.harnesses["orders"].publish(b"x", headers={"k": f"k{n}"})
    hold(stage, "k1999", 5)
    hold(stage, "k5", 3)
    asked = Asked()
    pipeline = stage.routes["orders"].pipeline
    pipeline._buffer._completion._deadline = [(asked.deadline, asked.trigger)]
    route = stage.route()
    assert route["held"]["groups"] == 2_000
    assert [row["key"] for row in route["groups"]["oldest"]] == [f"k{n}" for n in range(MOST_GROUPS)]
    assert [row["key"] for row in route["groups"]["fullest"]][:3] == ["k1999", "k5", "k0"]
    assert len(route["groups"]["fullest"]) == MOST_GROUPS
    assert asked.times == 2 * MOST_GROUPS
    assert len(json.dumps(stage.now())) < 20_000, "however many are open"


def test_a_long_key_is_cut():
    stage = keyed()
    hold(stage, "k" * 1_000)
    (row,) = stage.route()["groups"]["oldest"]
    assert (row["key"], row["cut"]) == ("k" * 200, True)


def test_names_of_groups_tell_nothing_and_stay():
    stage = keyed()
    hold(stage, "Mary")
    hold(stage, "Paul")
    one, other = stage.route()["groups"]["oldest"]
    assert one["id"] != other["id"]
    assert [row["id"] for row in stage.route()["groups"]["oldest"]] == [one["id"], other["id"]]
    again = keyed()
    hold(again, "Mary")
    assert again.route()["groups"]["oldest"][0]["id"] != one["id"], "of another process it is another"


# ── batches and refusals ──


def test_batches_tell_what_became_of_them_the_newest_first():
    stage = Stage(orders=Harness(size=2, age="60s"))
    stage.harnesses["orders"].sink.fail()
    for n in range(3):
        stage.harnesses["orders"].publish({"n": n}, id=f"i{n}")
    stage.harnesses["orders"].settle()
    second, first = stage.route()["batches"]
    assert (first["trigger"], first["messages"], first["fill"], first["verdicts"]) == (
        "size",
        2,
        1.0,
        {"written": 2},
    )
    assert (first["attempts"], second["attempts"]) == (2, 1)
    assert (second["trigger"], second["collecting"], second["fill"]) == ("age", 60.0, 0.5)
    assert second["ended"] > first["ended"]


def test_what_is_shown_of_the_past_is_bounded():
    stage = Stage(orders=Harness(size=1, breaker_window=0))
    for n in range(40):
        stage.harnesses["orders"].publish({"n": n}, id=f"i{n}")
        stage.harnesses["orders"].publish(b"{", content_type="application/json")
    route = stage.route()
    assert (len(route["batches"]), len(route["refusals"])) == (MOST_BATCHES, MOST_REFUSALS)
    assert route["totals"]["verdicts"] == {"written": 40, "dead_lettered": 40}
    assert route["totals"]["dead_letters"] == {"bad-json": 40}


def refused(reason, detail="", status=None):
    return Refused(None, reason, detail, status, "kind", attempts=2)


def test_refusals_that_come_together_are_told_by_reason():
    history = History()
    history.refused([refused("a", "one"), refused("b"), refused("a", "two"), refused("a", "three", 400)], 5.0)
    told = [
        (each.at, each.reason, each.status, each.messages, each.detail) for each in history.last_refused()
    ]
    assert told == [(5.0, "a", None, 2, "two"), (5.0, "b", None, 1, ""), (5.0, "a", 400, 1, "three")]
    history.refused([refused(str(n)) for n in range(100)], 6.0)
    assert len(history.last_refused()) == KEPT_REFUSALS


def test_a_detail_is_as_long_as_a_page_can_bear():
    stage = Stage(orders=Harness())
    history = stage.routes["orders"].pipeline.history
    history.refused([refused("r", "x" * 10_000)], 1.0)
    assert len(stage.route()["refusals"][0]["detail"]) == MOST_TEXT + 1


def test_reasons_are_explained():
    assert explain("bad-json") is EXPLANATIONS["bad-json"]
    assert explain("<never>") is UNKNOWN
    for word, each in EXPLANATIONS.items():
        assert each.means[-1] == each.mend[-1] == ".", word


# ── why ──

LOOK = Look(
    RouteState.RUNNING, "", None, True, None, None, None, None, 0, 0, 0, 0, 0, 0, None, [], []
)  # fmt: skip
FINE = Place("", "", 2)
CAUSES = [
    ({}, FINE, "idle", "Nothing has come in yet."),
    ({"received": 1.0}, FINE, "working", "Messages come in."),
    ({"received": 65.0}, FINE, "idle", "Nothing is held; the last message came 1 min 5 s ago."),
    ({"received": 9.0, "requests": 1}, FINE, "writing", "The sink has not answered 1 request yet."),
    ({"received": 9.0, "held_messages": 1200, "groups": 2, "due": 3.4}, FINE, "filling",
     "1,200 messages in 2 groups wait for more; the next group goes in 3 s."),
    ({"received": 9.0, "held_messages": 1, "groups": 1, "due": 0.2}, FINE, "filling",
     "1 message in 1 group wait for more; the next group goes now."),
    ({"received": 9.0, "outgoing": 2}, FINE, "lingering", "2 messages wait for a request to leave."),
    ({"room": False, "received": 1.0}, FINE, "full",
     "As many bytes are held as max_held allows; nothing more is read until some are written."),
    ({"failing": 7.0, "trial": 2.0, "outgoing": 40}, FINE, "sink-failing",
     "For 7 s the sink has taken nothing; the next try is in 2 s, 40 messages wait."),
    ({"failing": 7.0, "outgoing": 1}, FINE, "sink-failing",
     "For 7 s the sink has taken nothing; a try is under way, 1 message wait."),
    ({"letters_failing": 90.0, "letters_pending": 3, "failing": 1.0}, FINE, "dead-letters-away",
     "For 1 min 30 s the dead-letter queue takes nothing; 3 messages wait."),
    ({}, Place("", "", 0), "connecting", "The workers are connecting."),
    ({}, Place("", "gone", 0), "broker-away", "No worker consumes: gone."),
    ({"state": RouteState.WAITING, "reason": "starting"}, Place("", "", 0), "starting",
     "The sink is asked whether it is there."),
    ({"state": RouteState.WAITING, "reason": "starting"}, Place("", "refused", 0), "broker-away",
     "The broker is not to be had: refused."),
    ({"state": RouteState.WAITING, "reason": "HTTP 503", "probe": 4.0}, Place("", "", 0), "sink-away",
     "The sink is not there: HTTP 503. It is asked again in 4 s. Everything is back with the broker."),
    ({"state": RouteState.PAUSING, "reason": "told to", "held_messages": 3}, FINE, "pausing",
     "Told to. It writes what it holds (3 messages), then rests."),
    ({"state": RouteState.PAUSED, "reason": "told to"}, Place("", "", 0), "paused",
     "Told to. It takes nothing until it is resumed."),
    ({"state": RouteState.PAUSED, "reason": "quiet until 2026-11-23 07:00 UTC"}, Place("", "", 0), "paused",
     "Quiet until 2026-11-23 07:00 UTC. It takes nothing until then, or until it is resumed."),
    ({"state": RouteState.DRAINING, "reason": "stopping"}, FINE, "draining",
     "The process stops; what is held is written (0 messages)."),
    ({"state": RouteState.STOPPED, "reason": "most are refused"}, FINE, "stopped",
     "Most are refused. It does nothing more until the process is started again."),
    ({"state": RouteState.WAITING}, Place("no right", "", 0), "stopped",
     "No right. It does nothing more until the process is started again."),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "place", "word", "why"), CAUSES, ids=range(len(CAUSES)))
def test_why_a_route_does_what_it_does(changed, place, word, why):
    assert cause_of(LOOK._replace(**changed), place) == (word, why)


def test_every_state_has_a_cause():
    for state in RouteState:
        assert cause_of(LOOK._replace(state=state, reason="r"), FINE).why


def test_a_sink_that_fails_is_seen():
    stage = Stage(orders=Harness(size=1))
    stage.harnesses["orders"].sink.fail(times=None)
    stage.harnesses["orders"].publish({})
    assert stage.route()["cause"] == "sink-failing"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3_599, "59 min 59 s"),
        (3_660, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text


# ── counts and rates ──


def test_counts_come_from_the_metrics():
    stage = Stage(orders=Harness(size=2, age="1s"), other=Harness())
    for n in range(3):
        stage.harnesses["orders"].publish({"n": n})
    stage.harnesses["orders"].settle()
    counts = counted(stage.counters())
    assert counts["orders"] == Counts(3, 0, {"written": 3}, {"size": 1, "age": 1}, {})
    assert counts["other"].received == 0


def test_rates_are_those_of_the_last_seconds():
    rates, counts = Rates(), {"r": Counts()}
    assert rates.of(counts, 0.0) == (0.0, {})
    counts["r"].received = 10
    assert rates.of(counts, 0.5) == (0.0, {}), "too short a time says nothing"
    seconds, found = rates.of(counts, 2.0)
    assert (seconds, found["r"]["received"], found["r"]["written"]) == (2.0, 5.0, 0.0)
    counts["r"].verdicts["written"] = 40
    seconds, found = rates.of(counts, LONGEST + 1)
    assert (seconds, found["r"]["received"], found["r"]["written"]) == (10.5, 0.0, 3.8)
    seconds, found = rates.of(counts, 100.0)
    assert (seconds, found["r"]["written"]) == (100.0 - LONGEST - 1, 0.0), "since the last look"


def test_a_count_that_falls_is_no_rate_below_zero():
    rates = Rates()
    rates.of({"r": Counts(received=100)}, 0.0)
    assert rates.of({"r": Counts(received=5), "new": Counts(received=4)}, 2.0)[1] == {
        "r": dict.fromkeys(("received", "batches", "retries", "written", "dead_lettered", "other"), 0.0),
        "new": {
            **dict.fromkeys(("batches", "retries", "written", "dead_lettered", "other"), 0.0),
            "received": 2.0,
        },
    }


def test_the_first_look_has_no_rates_and_the_next_has():
    stage = keyed()
    assert stage.route()["rates"] is None
    stage.clock.advance(1)
    hold(stage, "a", 4)
    assert stage.route()["rates"]["received"] == 4.0
    assert stage.now()["rate_seconds"] == 1.0


# ── several processes, several who look ──


def test_who_asks_often_is_given_the_same_again():
    stage = keyed()
    first = stage.status.now()
    assert stage.status.now() is first
    stage.clock.advance(FRESH)
    assert stage.status.now() is not first


def test_many_at_once_make_one_look():
    stage, made = keyed(), []
    whole, views = threading.Barrier(5), stage.views
    stage.views = lambda: made.append(1) or views()
    threads = [threading.Thread(target=lambda: (whole.wait(), stage.status.now())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_several_processes_are_one_status():
    stage = Stage(orders=Harness(correlate="header:k", size=10, prefetch=100))
    hold(stage, "a", 2)
    (view,) = stage.views().values()
    view |= {"faults": ["orders: waiting"], "notes": ["control: away"]}
    (said,) = json.loads(json.dumps(view))["routes"]
    said |= {"state": "waiting", "cause": "sink-away", "why": "It is not there.", "reason": "gone"}
    said["queue_messages"] = {"ready": 9}
    stage.routes["orders"].queue_states = {"ready": 7}
    stage.views = lambda: {1: {**view, **stage.viewer.view()}, 2: {**view, "routes": [said]}, 3: None}
    status = stage.now()
    (route,) = status["routes"]
    assert status["faults"] == ["process 1: orders: waiting", "process 2: orders: waiting"]
    assert status["notes"][1] == "process 2: control: away"
    assert [row["answers"] for row in status["processes"]] == [True, True, False]
    assert (route["state"], route["cause"], route["why"]) == (
        "waiting",
        "sink-away",
        "Process 2: It is not there.",
    )
    assert route["held"] == {
        "messages": 4,
        "groups": 2,
        "bytes": said["held"]["bytes"] * 2,
        "most_bytes": 512_000_000,
    }
    assert (route["workers"], route["queue_messages"]) == ({"consuming": 4}, {"ready": 9})
    assert [row["process"] for row in route["groups"]["oldest"]] == [1, 2]
    assert [(row["process"], row["state"]) for row in route["processes"]] == [(1, "running"), (2, "waiting")]
    assert "Process 3 does not answer." in stage.ask().text


def test_a_silent_service_is_told_as_such():
    stage = keyed()
    stage.views = lambda: {1: None}
    assert stage.now()["routes"] == []
    assert "Process 1 does not answer." in stage.ask().text
