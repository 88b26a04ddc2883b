"""Campaigns over real servers with replicas: who is queued, how often, and what can be done meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import closing

import pytest

from aggregator.errors import TarantoolError
from tests.conftest import missing
from tests.servers import Unavailable
from tests.servers.base import wait_for
from tests.shard import Consumers, Shard, restart, spec, user

pytestmark = pytest.mark.integration

USERS = 20_000


@pytest.fixture(scope="module")
def three():
    """Three servers with 20,000 users."""
    try:
        shard = Shard(3)
    except Unavailable as why:
        missing(why)
    shard.load(user(number) for number in range(USERS))
    yield shard
    shard.close()


@pytest.fixture
def shard(three):
    yield three
    for server in three.servers:
        if not server.host.running():
            restart(server)
        server.eval("relay.options.high_water = 200; relay.probe = function() end")


@pytest.fixture
def producer(shard):
    with closing(shard.servers[1].client("producer")) as client:
        yield client


def everyone():
    return {user(number)[0] for number in range(USERS)}


def summed(progress, field):
    return sum(each[field] for each in progress.values())


def test_every_user_is_queued_once_and_every_server_takes_part(shard):
    consumers = Consumers(shard.servers, pause=0.01)
    with consumers.running():
        shard.start("all")
        shard.wait_state("all", everywhere=True)
    assert set(consumers.sent) == everyone()
    assert max(consumers.sent.values()) == 1
    progress = shard.progress("all")
    assert all(each["walked"] for each in progress.values())
    assert summed(progress, "walked") == summed(progress, "matched") == summed(progress, "queued") == USERS
    assert sum(sum(of["sent"] for of in each["counts"].values()) for each in progress.values()) == USERS
    assert all(each["claims"]["rows"] == USERS and not each["claims"]["open"] for each in progress.values())
    assert all(each["started"] <= each["ended"] for each in progress.values())


def test_filters_and_variants(shard):
    chosen = {
        "version_from": 3_000_100,
        "version_to": 3_000_499,
        "language": ["de", "en"],
        "tz": "Europe/Berlin",
    }
    consumers = Consumers(shard.servers)
    with consumers.running():
        shard.start("some", filter=chosen, app="news")
        shard.wait_state("some")
    expected = {
        row[0]: (row[2], row[4])
        for row in map(user, range(USERS))
        if 3_000_100 <= row[3] <= 3_000_499 and row[4] != "fr" and row[6] == "Europe/Berlin"
    }
    assert Counter(expected.keys()) == consumers.sent
    for _, data in consumers.tasks:
        assert (data["campaign"], data["app"]) == ("some", "news")
        for device, token, registered in data["recipients"]:
            platform, language = expected[device]
            variant = "de" if (platform, language) == ("apns", "de") else "default"
            assert data["platform"] == platform
            assert data["notification"] == spec()["notifications"][platform][variant]
            assert (token, registered) == (f"{int(device[1:]):064x}", 1_700_000_000)


def test_a_task_has_a_thousand_recipients_at_most(shard):
    consumers = Consumers(shard.servers)
    with consumers.running():
        shard.start("large", batch=7000, filter={"platform": "fcm"})
        shard.wait_state("large")
    sizes = [len(data["recipients"]) for _, data in consumers.tasks]
    assert max(sizes) == 1000
    assert sum(sizes) == USERS / 2


def test_what_is_repeated_is_done_once(shard, producer):
    consumers = Consumers(shard.servers)
    with consumers.running():
        assert producer.call("campaigns.create", "twice", spec()) == [{"state": "created", "new": True}]
        for server in shard.servers:
            with closing(server.client("producer")) as client:
                assert client.call("campaigns.create", "twice", spec()) == [
                    {"state": "created", "new": False}
                ]
        assert producer.call("campaigns.start", "twice", {})[0]["new"]
        for server in shard.servers:
            with closing(server.client("producer")) as client:
                assert not client.call("campaigns.start", "twice", {})[0]["new"]
        shard.wait_state("twice")
    assert consumers.sent == Counter(everyone())


def test_errors_have_a_word(shard, producer):
    producer.call("campaigns.create", "words", spec())
    for code, call in {
        "conflict": ("campaigns.create", "words", spec(batch=5)),
        "no-campaign": ("campaigns.start", "nobody", {}),
        "state": ("campaigns.pause", "words"),
        "bad-spec": ("campaigns.create", "empty", {}),
        "bad-id": ("campaigns.create", "", spec()),
        "read-only": ("users.load", [user(1)]),
    }.items():
        with pytest.raises(TarantoolError) as caught:
            producer.call(*call)
        assert caught.value.code == code
    assert [each["id"] for each in producer.call("campaigns.list")[0]].count("words") == 1
    assert producer.call("campaigns.get", "words")[0]["spec"] == spec()
    assert producer.call("campaigns.get", "nobody")[0] is None


def test_paused_it_hands_nothing_out_and_resumed_it_ends(shard, producer):
    consumers = Consumers(shard.servers, pause=0.05, limit=1)
    with consumers.running():
        shard.start("rest")
        wait_for(lambda: len(consumers.sent) > 2000, "some")
        assert producer.call("campaigns.pause", "rest") == [{"state": "paused"}]
        shard.wait_state("rest", "paused", everywhere=True)
        wait_for(lambda: not taken(shard, "rest"), "what was taken to end")
        sent, walked = len(consumers.sent), summed(shard.progress("rest"), "walked")
        threading.Event().wait(0.5)
        assert len(consumers.sent) == sent < USERS
        assert summed(shard.progress("rest"), "walked") - walked <= 3000  # claims that were under way
        producer.call("campaigns.resume", "rest")
        shard.wait_state("rest")
    assert consumers.sent == Counter(everyone())


def taken(shard, name):
    return sum(of["taken"] for each in shard.progress(name).values() for of in each["pending"].values())


def test_cancelled_it_walks_no_further_and_revoked_it_drops_what_waits(shard, producer):
    for server in shard.servers:
        server.eval("relay.options.high_water = 3")
    shard.start("end")
    wait_for(lambda: summed(shard.progress("end"), "queued") >= 3000, "tasks")
    producer.call("campaigns.cancel", "end")
    shard.wait_state("end", "cancelled", everywhere=True)
    wait_for(lambda: not unqueued(shard, "end"), "claims under way")
    left = summed(shard.progress("end"), "queued")
    assert 3000 <= left < USERS
    assert (
        sum(of["cost"] for each in shard.progress("end").values() for of in each["pending"].values()) == left
    )
    producer.call("campaigns.revoke", "end")
    shard.wait_state("end", "revoked", everywhere=True)
    wait_for(lambda: not any(each["pending"] for each in shard.progress("end").values()), "nothing to wait")
    counts = [of for each in shard.progress("end").values() for of in each["counts"].values()]
    assert sum(of["dropped"] for of in counts) == left
    with pytest.raises(TarantoolError, match="revoked"):
        producer.call("campaigns.resume", "end")


def unqueued(shard, name):
    return any(
        server.eval(
            "for _, c in ipairs(ledger.open_claims(...)) do if not c.queued and c.owner == peers.me then "
            "return 1 end end return 0",
            name,
        )
        != [0]
        for server in shard.servers
    )


def test_a_dry_run_counts_and_queues_nothing(shard):
    shard.start("dry", dry_run=True, filter={"platform": "apns"})
    shard.wait_state("dry", everywhere=True)
    progress = shard.progress("dry")
    assert summed(progress, "matched") == USERS / 2
    assert sum(each["skipped"].get("filter", 0) for each in progress.values()) == USERS / 2
    assert not any(each["pending"] or each["counts"] for each in progress.values())


def test_a_server_with_much_to_do_passes_without_claiming(shard):
    shard.servers[0].eval("relay.options.high_water = 0")
    consumers = Consumers(shard.servers)
    with consumers.running():
        shard.start("full", at=1)
        shard.wait_state("full")
    assert consumers.sent == Counter(everyone())
    progress = shard.progress("full")
    assert progress["a"]["walked"] == 0
    assert progress["b"]["walked"]
    assert progress["c"]["walked"]


def test_its_rate_is_that_of_its_tasks(shard):
    shard.start("rated", rate=4000, filter={"tz": "nowhere"})
    shard.wait_state("rated")
    assert shard.servers[0].eval("return tubes.group('rated').rate") == [4000]


def test_an_ended_campaign_can_be_forgotten(shard):
    shard.start("old", filter={"tz": "nowhere"})
    shard.wait_state("old", everywhere=True)
    for server in shard.servers:
        with closing(server.client("producer")) as client:
            assert client.call("campaigns.forget", "old") == [True]
            assert client.call("campaigns.forget", "old") == [False]
            assert client.call("campaigns.get", "old")[0] is None
        assert server.eval("return box.space.claims:count({'old'}), box.space.batons:count({'old'})") == [
            0,
            0,
        ]
