"""The campaign API over HTTP, before servers in memory."""

from __future__ import annotations

import base64
import threading

import orjson
import pytest

from tests.campaign_servers import FakeServers
from tests.campaign_service import TOKEN, client, front, serving, spec
from tests.servers.base import wait_for


@pytest.fixture(scope="module")
def running():
    """One service for all tests; each gets fresh servers behind it."""
    servers = FakeServers(a=2, b=1)
    with serving(servers.shards, servers.connect, feedback_token="f" * 24) as url:
        yield url, servers


@pytest.fixture
def servers(running):
    running[1].renew()
    return running[1]


@pytest.fixture(scope="module")
def door():
    with front() as made:
        yield made


@pytest.fixture
def fresh(door):
    """A service of its own: what it remembers of servers is not another test's."""
    servers = FakeServers(a=2, b=1)
    with door.serving(servers.shards, servers.connect) as url, client(url) as api:
        yield servers, api


def test_a_campaign_is_created_once(fresh):
    servers, api = fresh
    first = api.post("/campaigns", json=spec())
    assert first.status_code == 201
    assert first.headers["location"] == "/campaigns/sale"
    assert first.json()["expected"] == {"apns": 4, "fcm": 2}  # three devices in each of two shards
    second = api.post("/campaigns", json=spec())
    assert second.status_code == 200
    assert second.json() == first.json()
    assert servers.calls("campaigns.create") == 2
    assert (
        servers["a0"].replicas["campaigns"].keys() == servers["b0"].replicas["campaigns"].keys() == {"sale"}
    )


def test_another_campaign_of_the_same_id_is_a_conflict_that_tells_the_difference(fresh):
    _, api = fresh
    api.post("/campaigns", json=spec())
    other = api.post("/campaigns", json=spec(rate=5, filter={"language": "de"}))
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"
    assert other.json()["differing"] == ["filter", "rate"]


def test_the_idempotency_key_makes_the_id(fresh):
    _, api = fresh
    made = [
        api.post("/campaigns", json=spec(id=...), headers={"Idempotency-Key": key}) for key in ("k", "k", "l")
    ]
    assert [answer.status_code for answer in made] == [201, 200, 201]
    first, again, other = (answer.json()["id"] for answer in made)
    assert first == again != other
    changed = api.post("/campaigns", json=spec(id=..., rate=1), headers={"Idempotency-Key": "k"})
    assert (changed.status_code, changed.json()["differing"]) == (409, ["rate"])
    named = api.post("/campaigns", json=spec(id="named"), headers={"Idempotency-Key": "k"})
    assert named.status_code == 409
    assert first in named.json()["detail"]


def test_a_start_is_retried_at_another_server_and_tells_of_the_dead_one(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    servers["a0"].mode = "down"
    answer = api.post("/campaigns/sale/start")
    assert answer.status_code == 200
    told = answer.json()
    assert [each["server"] for each in told["unanswered"]] == ["a/127.0.0.1:3301"]
    assert [each["server"] for each in told["servers"] if each["answered"]] == [
        "a/127.0.0.1:3302",
        "b/127.0.0.1:3303",
    ]


def test_a_server_that_dies_at_the_start_itself_is_followed_by_the_next(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    first, die = servers["a0"], servers["a0"].answer

    def answer(function, arguments):
        if function == "campaigns.start":
            first.mode = "silent"
        return die(function, arguments)

    first.answer = answer
    told = api.post("/campaigns/sale/start").json()
    assert [(each["server"], each["answered"]) for each in told["servers"]] == [
        ("a/127.0.0.1:3301", False),
        ("a/127.0.0.1:3302", True),
        ("b/127.0.0.1:3303", True),
    ]


def test_a_second_start_sends_nothing_twice(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    assert not api.post("/campaigns/sale/start").json()["repeated"]
    again = api.post("/campaigns/sale/start")
    assert (again.status_code, again.json()["repeated"], again.json()["state"]) == (200, True, "running")
    assert servers.calls("campaigns.start") == 2  # one in each shard


def test_starts_side_by_side_are_one(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(api.post("/campaigns/sale/start").json()))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["repeated"] for answer in answers) == [False] + [True] * 5
    assert servers.calls("campaigns.start") == 2


def test_a_shard_without_a_server_is_a_503_and_the_next_start_completes_it(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    real = servers["b0"].answer
    servers["b0"].answer = lambda function, given: (
        unavailable() if function == "campaigns.start" else real(function, given)
    )
    failed = api.post("/campaigns/sale/start")
    assert failed.status_code == 503
    assert failed.json()["servers"] == [{"server": "b/127.0.0.1:3303", "error": "gone"}]
    servers["b0"].answer = real
    told = api.post("/campaigns/sale/start").json()
    assert [each["server"] for each in told["servers"]] == ["b/127.0.0.1:3303"]


def unavailable():
    from producers.campaigns.ports import ServerUnavailableError

    raise ServerUnavailableError("gone")


@pytest.mark.parametrize(
    ("action", "state"), [("pause", "paused"), ("cancel", "cancelled"), ("revoke", "revoked")]
)
def test_actions_reach_all_servers_and_tell_which_did_not_answer(fresh, action, state):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    api.post("/campaigns/sale/start")
    servers["a1"].mode = "silent"
    told = api.post(f"/campaigns/sale/{action}").json()
    assert (told["state"], told["complete"]) == (state, False)
    assert told["unanswered"] == [{"server": "a/127.0.0.1:3302", "error": "it is silent"}]
    assert [servers[name].progress["sale"]["state"] for name in ("a0", "b0")] == [state, state]
    started = api.post("/campaigns/sale/start")
    assert started.status_code == 409
    assert state in started.json()["detail"]


def test_a_paused_campaign_goes_on(fresh):
    _, api = fresh
    api.post("/campaigns", json=spec())
    api.post("/campaigns/sale/start")
    api.post("/campaigns/sale/pause")
    assert api.post("/campaigns/sale/resume").json()["state"] == "running"


def test_an_action_where_no_server_of_a_shard_answers_is_a_503(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    real = servers["b0"].answer
    servers["b0"].answer = lambda function, given: (
        unavailable() if "pause" in function else real(function, given)
    )
    answer = api.post("/campaigns/sale/pause")
    assert answer.status_code == 503
    assert "shard b" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["", "/progress", "/events"])
def test_an_unknown_campaign_is_a_404(running, servers, path):
    with client(running[0]) as api:
        answer = api.get(f"/campaigns/none{path}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:problem:no-campaign")
        assert api.post("/campaigns/none/start").status_code == 404
        assert api.post("/campaigns/none/pause").status_code == 404


def test_a_dry_run_counts_and_creates_nothing(running, servers):
    servers["b0"].replicas["users"] = {9: [9, "t", "fcm", 1, "en", "1x1", "Moon/Crater", None, None, 0]}
    with client(running[0]) as api:
        told = api.post("/campaigns/dry-run", json=spec()).json()
    assert told["platforms"] == {"apns": 2, "fcm": 2}
    assert told["devices"] == 4
    assert told["unknown_zones"] == ["Moon/Crater"]
    assert told["payload_bytes"]["apns"] == {"default": 24}
    assert not servers.calls("campaigns.create")


def test_the_rate_is_shared_by_all_servers(running, servers):
    with client(running[0]) as api:
        api.post("/campaigns", json=spec(rate=300))
    assert servers["a0"].replicas["campaigns"]["sale"]["rate"] == 100


def test_a_platform_without_a_notification_is_left_out(running, servers):
    one = spec(notifications={"fcm": spec()["notifications"]["fcm"]})
    with client(running[0]) as api:
        assert api.post("/campaigns", json=one).json()["expected"] == {"fcm": 2}
    assert servers["a0"].replicas["campaigns"]["sale"]["filter"] == {"platform": "fcm"}


def test_the_list_has_the_youngest_first_and_survives_a_dead_server(fresh):
    servers, api = fresh
    for name in ("one", "two"):
        api.post("/campaigns", json=spec(id=name))
        for server in ("a0", "b0"):
            servers[server].replicas["campaigns"][name]["created"] += {"one": -60, "two": 0}[name]
    servers["a0"].mode = "down"
    told = api.get("/campaigns").json()
    assert [each["id"] for each in told["campaigns"]] == ["two", "one"]
    assert [each["server"] for each in told["unanswered"]] == ["a/127.0.0.1:3301"]


WRONG = [
    ({"filter": {"tz": "Mars/Olympus"}}, "filter.tz", "'Mars/Olympus' is no time zone"),
    ({"filter": {"platform": "wns"}}, "filter.platform", "'wns' is unknown; 'apns' or 'fcm' is needed"),
    ({"filter": {"version_from": "x"}}, "filter.version_from", "no version"),
    ({"filter": {"version_from": "4.0", "version_to": "3.0"}}, "filter", "nobody has both"),
    ({"filter": {"lang": "de"}}, "filter.lang", "no such field"),
    ({"notifications": {"wns": {}}}, "notifications.wns", "'wns' is unknown"),
    ({"notifications": {}}, "notifications", "at least 1"),
    (
        {"notifications": {"apns": {"default": {"payload": {"x": "y" * 4096}}}}},
        "notifications.apns.default.payload", "4104 bytes as JSON; apns takes 4096",
    ),
    ({"notifications": {"apns": {"default": {"payload": {}}}}}, "apns.default.payload", "empty"),
    ({"notifications": {"apns": {"de": {"payload": {"x": 1}}}}}, "notifications.apns", "default is missing"),
    (
        {"notifications": {"fcm": {"default": {"payload": {"data": {"n": 1}}}}}},
        "notifications.fcm.default.payload", "strings",
    ),
    (
        {"notifications": {"fcm": {"default": {"payload": {"token": "x"}}}}},
        "notifications.fcm.default.payload", "'token' is set for each device",
    ),
    (
        {"notifications": {"apns": {"default": {"payload": {"x": 1}, "priority": 7}}}},
        "notifications.apns.default.priority", "10, 5 or 1",
    ),
    ({"expires": "2020-01-01T00:00:00Z"}, "expires", "in the past"),
    ({"expires": "tomorrow"}, "expires", "'tomorrow'"),
    ({"expires": 1900000000}, "expires", "a moment like"),
    ({"expires": "2030-01-01T00:00:00"}, "expires", "timezone"),
    ({"quiet": {"from": "25:00", "to": "8:00"}}, "quiet.from", "no time of the day"),
    ({"quiet": {"from": "22:30", "to": "8:00"}}, "quiet.from", "no full hour"),
    ({"quiet": {"from": 8, "to": "8:00"}}, "quiet", "the same hour"),
    ({"rate": 0}, "rate", "greater than 0"),
    ({"id": "../etc"}, "id", "pattern"),
    ({"filter": {"language": "xx"}}, "", "matches no device"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "field", "says"), WRONG, ids=[f"{n}-{w[1]}" for n, w in enumerate(WRONG)]
)
def test_wrong_input_is_a_422_that_names_the_field(running, servers, changed, field, says):
    with client(running[0]) as api:
        answer = api.post("/campaigns", json=spec(**changed))
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == 422
    assert says in body["detail"]
    assert field in body["detail"]
    assert not servers.calls("campaigns.create")


def test_nobody_is_allowed_where_it_is_asked_for(running, servers):
    with client(running[0]) as api:
        answer = api.post("/campaigns", json=spec(filter={"language": "xx"}, allow_empty=True))
    assert answer.status_code == 201


def test_a_body_that_is_no_json_or_too_large(running, servers):
    with client(running[0]) as api:
        bad = api.post("/campaigns", content=b'{"id": ', headers={"content-type": "application/json"})
        assert (bad.status_code, "no JSON" in bad.json()["detail"]) == (422, True)
        large = api.post(
            "/campaigns", content=b" " * (3 * 2**20), headers={"content-type": "application/json"}
        )
        assert large.status_code == 413


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "f" * 24])
def test_without_the_token_nothing_is_told(running, servers, token):
    with client(running[0], token) as api:
        for method, path in (("GET", "/campaigns"), ("POST", "/campaigns"), ("POST", "/campaigns/x/start")):
            answer = api.request(method, path, json={})
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["type"] == "urn:problem:token"


def test_security_headers_and_no_cors(running, servers):
    with client(running[0], "") as api:
        for path in ("/", "/page/app.js", "/campaigns"):
            answer = api.get(path, headers={"origin": "https://example.org"})
            policy = answer.headers["content-security-policy"]
            assert "script-src 'self'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in answer.headers
        assert api.get("/healthz").json() == {"status": "ok"}


def test_the_schema_has_examples(running, servers):
    with client(running[0], "") as api:
        schema = api.get("/openapi.json").json()
    assert {"/campaigns", "/campaigns/{id}/start", "/campaigns/{id}/events", "/feedback"} <= schema[
        "paths"
    ].keys()
    assert schema["components"]["schemas"]["CampaignSpec"]["examples"][0]["id"] == "spring-sale"


# ── dead tokens ──


def dead(device, token, at, reason="Unregistered", platform="apns"):
    return {
        "token": token, "device": device, "platform": platform, "app": "", "reason": reason,
        "unregistered_at": at,
    }  # fmt: skip


def test_tokens_are_forgotten_only_if_they_died_after_the_registration(running, servers):
    with client(running[0]) as api:
        told = api.post(
            "/feedback",
            json=[
                dead("a1", "token-a1", 1500.5),
                dead("a2", "token-a2", 999),  # registered again since
                dead("a2", "another", 1500),
                dead("7", "token-7", 2500, platform="fcm"),  # a number on its way as a text
            ],
        )
    assert told.status_code == 200
    assert told.json()["forgotten"] == 4  # two of each shard
    for shard in ("a0", "b0"):
        assert servers[shard].replicas["users"].keys() == {"a2"}


def test_without_a_moment_only_the_word_unregistered_counts(running, servers):
    with client(running[0]) as api:
        api.post(
            "/feedback", json=[dead("a1", "token-a1", None), dead("a2", "token-a2", None, "BadDeviceToken")]
        )
        assert len(servers["a0"].replicas["users"]) == 3
        api.post("/feedback", json=[dead(7, "token-7", None, "UNREGISTERED", "fcm")])
    assert 7 not in servers["a0"].replicas["users"]


def test_feedback_takes_its_own_token_and_basic(running, servers):
    with client(running[0], "f" * 24) as api:
        assert api.post("/feedback", json=[]).status_code == 200
        assert api.get("/campaigns").status_code == 401
    basic = base64.b64encode(b"sink:" + b"f" * 24).decode()
    with client(running[0], "") as api:
        assert api.post("/feedback", json=[], headers={"authorization": f"Basic {basic}"}).status_code == 200
        assert api.post("/feedback", json=[]).status_code == 401


def test_feedback_is_refused_while_a_shard_has_no_writer(fresh):
    servers, api = fresh
    servers["a0"].mode = "down"  # a1 only reads
    answer = api.post("/feedback", json=[dead("a1", "token-a1", 1500)])
    assert answer.status_code == 503


# ── progress ──


def events(lines):
    """Yield (event, data) of server-sent events."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, orjson.loads(line[6:])


def test_progress_is_streamed_until_the_end(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    api.post("/campaigns/sale/start")
    with api.stream("GET", "/campaigns/sale/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        found = events(stream.iter_lines())
        name, first = next(found)
        assert (name, first["state"], first["remaining"]) == ("progress", "running", 6)
        servers["a1"].mode = "down"
        for server in ("a0", "a1", "b0"):
            servers[server].progress["sale"] |= {"state": "done", "counts": {"apns": {"written": 2}}}
        rest = list(found)
    assert [name for name, _ in rest][-2:] == ["progress", "end"]
    last = rest[-2][1]
    assert (last["state"], last["done"]) == ("done", 4)
    assert [each["server"] for each in last["unanswered"]] == ["a/127.0.0.1:3302"]


def test_too_many_watchers_are_told_to_come_back():
    servers = FakeServers(a=1)
    with serving(servers.shards, servers.connect, watchers=1) as url, client(url) as api:
        api.post("/campaigns", json=spec())
        with api.stream("GET", "/campaigns/sale/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            second = api.get("/campaigns/sale/events")
            assert (second.status_code, second.headers["retry-after"]) == (503, "10")
            next(lines)

        def free():
            with api.stream("GET", "/campaigns/sale/events") as stream:
                return stream.status_code == 200

        wait_for(free, "the place of the first")


def test_watchers_share_their_questions():
    servers = FakeServers(a=1)
    with serving(servers.shards, servers.connect, interval="100ms") as url, client(url) as api:
        api.post("/campaigns", json=spec())
        with (
            api.stream("GET", "/campaigns/sale/events") as one,
            api.stream("GET", "/campaigns/sale/events") as two,
        ):
            first, second = events(one.iter_lines()), events(two.iter_lines())
            for _ in range(5):
                next(first)
            for _ in range(5):
                next(second)
            asked = servers.calls("campaigns.progress")
            assert asked <= 20  # 2 before, at most some 14 of the two streams' common poll


def test_a_service_with_watchers_stops():
    servers = FakeServers(a=1)
    with serving(servers.shards, servers.connect) as url, client(url) as api:
        api.post("/campaigns", json=spec())
        stream = api.stream("GET", "/campaigns/sale/events")
        opened = stream.__enter__()
        lines = opened.iter_lines()
        next(lines)
    stream.__exit__(None, None, None)


def test_progress_when_nobody_answers(fresh):
    servers, api = fresh
    api.post("/campaigns", json=spec())
    for name in ("a0", "a1", "b0"):
        servers[name].mode = "down"
    answer = api.get("/campaigns/sale/progress")
    assert answer.status_code == 503
    assert len(answer.json()["servers"]) == 3
