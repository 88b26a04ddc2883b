"""Progress of a campaign from what its servers say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from producers.campaigns.progress import History, state_of, summarise
from producers.campaigns.servers import Answer

NOW = 1_800_000_000.0


def said(name="a", **value):
    return Answer(SimpleNamespace(name=f"main/{name}", shard="main"), {"state": "running", **value})


def summary(*answers, now=NOW, expected=100, history=None):
    history = history if history is not None else History()
    return summarise("c", answers, now=now, expected=expected, history=history)


def test_servers_are_added_up_and_the_silent_one_is_named():
    silent = Answer(said("b").server, error="no answer", code="unavailable")
    found = summary(
        said(walked=60, matched=50, queued=50, counts={"apns": {"sent": 20, "Unregistered": 2}}),
        said("c", walked=40, matched=40, queued=40, counts={"apns": {"sent": 5}, "fcm": {"sent": 7}}),
        silent,
    )
    assert (found.walked, found.matched, found.done, found.remaining) == (100, 90, 34, 66)
    assert found.reasons == {"Unregistered": 2}
    assert [(each.platform, each.sent, each.refused) for each in found.platforms] == [
        ("apns", 25, 2),
        ("fcm", 7, 0),
    ]
    assert [each.server for each in found.unanswered] == ["main/b"]
    assert [each.answered for each in found.servers] == [True, True, False]


def test_the_rate_comes_from_counts_over_time():
    history = History()
    rates = [
        summary(said(counts={"fcm": {"sent": sent}}), now=NOW + after, expected=1000, history=history)
        for after, sent in ((0, 0), (1, 50), (2, 100), (60, 100), (61, 100))
    ]
    assert [each.rate for each in rates] == [None, 50, 50, None, 0]
    assert rates[2].eta_seconds == 18  # 900 are left
    assert rates[4].eta_seconds is None  # at this rate it never ends


def test_the_end_cannot_come_before_the_last_window():
    history = History()
    windows = {str(int(NOW) - 3600): 5, str(int(NOW) + 7200): 10}
    for after, sent in ((0, 0), (1, 50)):
        found = summary(
            said(counts={"fcm": {"sent": sent}}, windows=windows), now=NOW + after, history=history
        )
    assert [(each.devices, each.open) for each in found.wave] == [(5, True), (10, False)]
    assert found.eta_seconds == 7199


@pytest.mark.parametrize(
    ("states", "pending", "state"),
    [
        ([], 0, "unknown"),
        (["created", "created"], 0, "created"),
        (["running", "created"], 0, "running"),
        (["done", "running"], 3, "running"),
        (["done", "done"], 3, "sending"),
        (["done", "done"], 0, "done"),
        (["paused", "running"], 0, "paused"),
        (["revoked", "running"], 0, "revoked"),
    ],
)
def test_one_state_of_many(states, pending, state):
    assert state_of(states, pending) == state


def test_devices_of_tasks_are_shared_out_by_their_states():
    pending = {"apns": {"ready": 1, "delayed": 2, "taken": 1, "buried": 0, "cost": 3999}}
    (apns, _) = summary(said(pending=pending)).platforms
    assert (apns.waiting, apns.delayed, apns.in_flight) == (999, 2001, 999)


def test_empty_lua_tables_are_lists():
    found = summary(said(counts=[], pending=[], windows=[], skipped=[], baton=[]))
    assert (found.done, found.wave, found.skipped) == (0, [], {})
