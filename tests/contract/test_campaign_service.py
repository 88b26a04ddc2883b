"""The campaign service before servers in memory and before real ones: the same tests, the same outcomes."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest

from producers.campaigns.connecting import TarantoolConnection
from tests.campaign_servers import ROWS, FakeServers
from tests.campaign_service import client, front, spec
from tests.conftest import missing
from tests.servers import Unavailable
from tests.servers.base import wait_for
from tests.servers.tarantool import PASSWORD
from tests.shard import Consumers, Shard, restart


class InMemory:
    """Two servers that do nothing by themselves."""

    def __init__(self):
        self.fakes = FakeServers(main=2)
        self.shards, self.connect = self.fakes.shards, self.fakes.connect
        self.names = ["main0", "main1"]

    def fresh(self):
        self.fakes.renew()

    def kill(self, number):
        self.fakes[self.names[number]].mode = "down"

    def freeze(self, number):
        self.fakes[self.names[number]].mode = "silent"

    def devices(self):
        return set(self.fakes["main0"].replicas["users"])

    @contextmanager
    def sending(self):
        """Have everything sent by the time that somebody asks."""
        yield
        for server in self.fakes.names.values():
            for said in server.progress.values():
                said["state"] = "done"
        for said in self.fakes["main1"].progress.values():
            counts = {"apns": {"sent": 2}, "fcm": {"sent": 1}}
            said |= {"walked": 3, "matched": 3, "queued": 3, "counts": counts}

    def close(self):
        pass


class Real:
    """A writer and its replica."""

    def __init__(self):
        self.shard = Shard(2)
        ports = ",".join(server.uri for server in self.shard.servers)
        self.shards = {"main": f"tarantool://producer:{PASSWORD}@{ports}/"}
        self.connect = TarantoolConnection

    def fresh(self):
        for server in self.shard.servers:
            server.heal()
            if not server.host.running():
                restart(server)
        self.shard.writer.eval("box.space.users:truncate()")
        self.shard.load(ROWS)

    def kill(self, number):
        self.shard.servers[number].kill()

    def freeze(self, number):
        self.shard.servers[number].pause()

    def devices(self):
        (found,) = self.shard.writer.eval(
            "local ids = {} for _, row in box.space.users:pairs() do table.insert(ids, row[1]) end return ids"
        )
        return set(found)

    @contextmanager
    def sending(self):
        """Take every task, and tell that it was sent."""
        consumers = Consumers([each for each in self.shard.servers if each.host.running()])
        with consumers.running():
            yield
            wait_for(lambda: sum(consumers.sent.values()) >= len(ROWS), "all to be sent", timeout=60)
        assert max(consumers.sent.values()) == 1

    def close(self):
        self.shard.close()


@pytest.fixture(scope="module", params=["memory", pytest.param("tarantool", marks=pytest.mark.integration)])
def servers(request):
    try:
        made = InMemory() if request.param == "memory" else Real()
    except Unavailable as why:
        missing(why)
    yield made
    made.close()


@pytest.fixture(scope="module")
def door():
    with front() as made:
        yield made


@pytest.fixture
def stage(servers, door):
    """Fresh users, a service, and a name that no other test has for its campaign."""
    servers.fresh()
    with door.serving(servers.shards, servers.connect, timeout="1s") as url, client(url) as api:
        servers.api, servers.name = api, f"c{time.time_ns()}"
        yield servers
    servers.fresh()


def post(stage, path="", **changed):
    if path:
        return stage.api.post(f"/campaigns/{stage.name}{path}")
    return stage.api.post("/campaigns", json=spec(id=stage.name, **changed))


def state(stage):
    return stage.api.get(f"/campaigns/{stage.name}/progress").json()["state"]


def test_a_campaign_from_creation_to_the_end(stage):
    created = post(stage)
    assert (created.status_code, created.json()["expected"]) == (201, {"apns": 2, "fcm": 1})
    assert post(stage).status_code == 200
    assert post(stage, rate=3).json()["differing"] == ["rate"]
    assert state(stage) == "created"
    with stage.sending():
        started = post(stage, "/start")
        assert (started.status_code, started.json()["repeated"]) == (200, False)
        again = post(stage, "/start")
        assert (again.status_code, again.json()["repeated"]) == (200, True)
    wait_for(lambda: state(stage) == "done", "the end", timeout=30)
    progress = stage.api.get(f"/campaigns/{stage.name}/progress").json()
    assert (progress["expected"], progress["done"], progress["remaining"]) == (3, 3, 0)
    assert {each["platform"]: each["sent"] for each in progress["platforms"]} == {"apns": 2, "fcm": 1}
    assert progress["unanswered"] == []
    assert post(stage, "/start").json()["repeated"]  # nothing is sent a second time
    assert stage.name in [each["id"] for each in stage.api.get("/campaigns").json()["campaigns"]]


def test_filters_count_the_same(stage):
    for chosen, devices in (
        ({}, 3),
        ({"language": ["de", "en"]}, 3),
        ({"version_from": "3.0.1", "version_to": "3.99.0"}, 1),
        ({"tz": ["+05:30", "Europe/Berlin"]}, 2),
        ({"platform": "apns", "resolution": "1170x2532"}, 2),
        ({"language": "fr"}, 0),
    ):
        told = stage.api.post("/campaigns/dry-run", json=spec(filter=chosen)).json()
        assert told["devices"] == devices, chosen
        assert told["unknown_zones"] == []
    assert post(stage, filter={"language": "fr"}).status_code == 422


@pytest.mark.parametrize("hurt", ["kill", "freeze"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_start_finds_a_server_that_answers(stage, hurt, number):
    post(stage)
    wait_for(lambda: len(_known(stage)) == 2, "both to know of it")
    getattr(stage, hurt)(number)
    began = time.monotonic()
    started = post(stage, "/start")
    assert started.status_code == 200, started.text
    assert time.monotonic() - began < 20
    assert len(started.json()["unanswered"]) == 1
    assert post(stage, "/start").json()["repeated"]
    paused = post(stage, "/pause").json()
    assert (paused["state"], paused["complete"], len(paused["unanswered"])) == ("paused", False, 1)


def _known(stage):
    progress = stage.api.get(f"/campaigns/{stage.name}/progress").json()
    return [each for each in progress["servers"] if each["answered"]]


def test_pause_resume_cancel_revoke(stage):
    post(stage)
    wait_for(lambda: len(_known(stage)) == 2, "both to know of it")
    post(stage, "/start")
    for action, becomes in (("pause", "paused"), ("resume", "running")):
        told = post(stage, f"/{action}").json()
        assert (told["state"], told["complete"]) == (becomes, True), told
        assert state(stage) == becomes
    assert post(stage, "/revoke").json()["state"] == "revoked"
    refused = post(stage, "/start")
    assert (refused.status_code, refused.json()["state"]) == (409, "revoked")


def test_dead_tokens_leave(stage):
    def dead(device, token, at, platform="apns", reason="Unregistered"):
        return {
            "token": token, "device": device, "platform": platform, "app": "", "reason": reason,
            "unregistered_at": at,
        }  # fmt: skip

    told = stage.api.post(
        "/feedback",
        json=[
            dead("a1", "token-a1", 999.0),  # registered again since
            dead("a1", "token-other", 5000.0),
            dead("a2", "token-a2", 1000.5),
            dead("7", "token-7", None, "fcm", "UNREGISTERED"),
        ],
    )
    assert told.json() == {"forgotten": 2, "kept": 2, "unanswered": []}, told.text
    assert stage.devices() == {"a1"}


def test_a_payload_comes_back_as_it_was(stage):
    payload = {"aps": {}, "list": [], "none": None, "text": "Grüße 👋", "number": 1.5, "deep": {"a": [{}]}}
    post(stage, notifications={"apns": {"default": {"payload": payload}}})
    assert (
        stage.api.get(f"/campaigns/{stage.name}").json()["spec"]["notifications"]["apns"]["default"][
            "payload"
        ]
        == payload
    )
