"""The simulated APNs refuses what APNs refuses, each for its own reason."""

from __future__ import annotations

import time

import pytest
from h2.events import RemoteSettingsChanged, SettingsAcknowledged
from h2.settings import SettingCodes

from aggregator.testing.gateways import Apns
from aggregator.testing.gateways.apns_checks import REASONS
from aggregator.testing.gateways.certificates import pem, signing_key
from tests.http2_client import PAYLOAD, TOKEN, Http2Client, provider_token

TOPIC = "com.example.app"
OTHER = "cd" * 32


class Wall:
    """A wall clock that is set by hand."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def time(self):
        return self.now

    monotonic = time


@pytest.fixture(scope="module")
def apns():
    with Apns(topics=[TOPIC], token_updates=1000) as apns:
        apns.devices[OTHER] = "com.example.other"
        yield apns


@pytest.fixture
def client(apns):
    apns.script.clear()
    with connect(apns) as client:
        yield client


def connect(apns, issued=None):
    token = provider_token(apns, iat=issued or int(time.time()))
    return Http2Client(apns, authorization=f"bearer {token}", apns_topic=TOPIC)


def test_a_right_push_is_an_empty_200_that_ends_with_its_headers(client):
    answer = client.push(apns_id="123e4567-e89b-12d3-a456-426614174000")
    assert (answer.status, answer.body, answer.frames) == (200, b"", 0)
    assert answer.headers["apns-id"] == "123e4567-e89b-12d3-a456-426614174000"


def test_an_id_is_made_where_none_is_given(client):
    first, second = (client.push().headers["apns-id"] for _ in range(2))
    assert len(first) == 36
    assert first != second


@pytest.mark.parametrize(
    ("reason", "headers"),
    [
        ("BadCollapseId", {"apns_collapse_id": "x" * 65}),
        ("BadCollapseId", {"apns_collapse_id": "ä" * 33}),
        ("BadExpirationDate", {"apns_expiration": "tomorrow"}),
        ("BadExpirationDate", {"apns_expiration": "-1"}),
        ("BadMessageId", {"apns_id": "1"}),
        ("BadPriority", {"apns_priority": "7"}),
        ("BadPriority", {"apns_priority": "10", "apns_push_type": "background"}),
        ("InvalidPushType", {"apns_push_type": "loud"}),
        ("MissingTopic", {"apns_topic": None}),
        ("BadTopic", {"apns_topic": "com example"}),
        ("BadTopic", {"apns_push_type": "voip"}),
        ("TopicDisallowed", {"apns_topic": "com.example.foreign"}),
        ("DeviceTokenNotForTopic", {"token": OTHER}),
        ("BadDeviceToken", {"token": "zz" * 32}),
        ("BadDeviceToken", {"token": "ab"}),
        ("MissingDeviceToken", {"token": ""}),
        ("BadPath", {"token": f"{TOKEN}/more"}),
        ("PayloadEmpty", {"body": b""}),
        ("PayloadEmpty", {"body": b"hello"}),
        ("PayloadEmpty", {"body": b"{}"}),
        ("PayloadTooLarge", {"body": b'{"a":"%s"}' % (b"x" * 4089)}),
        ("MethodNotAllowed", {"method": "PUT"}),
        ("DuplicateHeaders", {"more": [("apns-priority", "5"), ("apns-priority", "5")]}),
        ("MissingProviderToken", {"authorization": None}),
        ("MissingProviderToken", {"authorization": "basic 1"}),
        ("InvalidProviderToken", {"authorization": "bearer nothing"}),
    ],
)
def test_each_reason(client, reason, headers):
    answer = client.push(**headers)
    assert answer.document == {"reason": reason}
    assert answer.status == REASONS[reason]
    assert answer.headers["apns-id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"body": b'{"a":"%s"}' % (b"x" * 4088)},
        {"apns_collapse_id": "x" * 64},
        {"apns_expiration": "0"},
        {"apns_priority": "5", "apns_push_type": "background"},
        {"apns_push_type": "background"},
        {"apns_topic": f"{TOPIC}.voip", "apns_push_type": "voip", "body": b'{"a":"%s"}' % (b"x" * 5112)},
    ],
)
def test_what_just_fits_is_taken(client, headers):
    assert client.push(**headers).status == 200


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_can_be_asked_for(apns, client, reason):
    apns.script.answer(reason, times=1, timestamp=1_700_000_000.5, retry_after=7)
    answer = client.push()
    told = {"timestamp": 1_700_000_000_500} if REASONS[reason] == 410 else {}
    assert (answer.status, answer.document) == (REASONS[reason], {"reason": reason} | told)
    assert answer.headers["retry-after"] == "7"
    assert client.push().status == 200


@pytest.mark.parametrize(
    ("reason", "claims"),
    [
        ("InvalidProviderToken", {"kid": "another"}),
        ("InvalidProviderToken", {"iss": "another"}),
        ("InvalidProviderToken", {"iat": "now"}),
        ("InvalidProviderToken", {"later": 600}),
        ("InvalidProviderToken", {"key": pem(signing_key()).decode()}),
        ("InvalidProviderToken", {"alg": "HS256", "key": "k" * 32}),
        ("ExpiredProviderToken", {"later": -3700}),
    ],
)
def test_each_fault_of_a_token(apns, client, reason, claims):
    if "later" in claims:  # than the test, which may be long after its collection
        claims = {"iat": int(time.time()) + claims["later"]}
    answer = client.push(authorization=f"bearer {provider_token(apns, **claims)}")
    assert (answer.status, answer.document) == (403, {"reason": reason})


def test_a_token_grows_stale_while_it_is_in_use():
    clock = Wall()
    with Apns(clock=clock) as apns, connect(apns, clock.now) as client:
        assert client.push().status == 200
        clock.now += 3601
        assert client.push().document == {"reason": "ExpiredProviderToken"}


def test_too_many_new_tokens_within_20_minutes():
    clock = Wall()
    with Apns(clock=clock, token_updates=2) as apns:
        tokens = [f"bearer {provider_token(apns, iat=clock.now)}" for _ in range(3)]
        with Http2Client(apns, apns_topic="a") as client:
            assert [client.push(authorization=one).status for one in tokens] == [200, 200, 429]
            assert client.push(authorization=tokens[0]).status == 200
            assert client.push(authorization=tokens[2]).document == {"reason": "TooManyProviderTokenUpdates"}
            clock.now += 1200
            assert client.push(authorization=tokens[2]).status == 200


def test_one_stream_until_the_first_token_that_is_right(apns):
    with connect(apns) as client:
        client.event(RemoteSettingsChanged)
        assert dict(client.http2.remote_settings) | {
            SettingCodes.MAX_CONCURRENT_STREAMS: 1,
            SettingCodes.INITIAL_WINDOW_SIZE: 65_535,
            SettingCodes.MAX_FRAME_SIZE: 16_384,
        } == dict(client.http2.remote_settings)
        assert client.push(authorization="bearer wrong").status == 403
        assert client.http2.remote_settings.max_concurrent_streams == 1
        assert client.push().status == 200
        client.until(lambda: client.http2.remote_settings.max_concurrent_streams == 1000)


def test_a_stream_above_the_limit_is_refused_and_no_other(apns):
    apns.script.clear()
    with connect(apns) as client:
        apns.script.slow(0.05)
        client.event(SettingsAcknowledged)
        client.http2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2  # it does not care
        client.http2.remote_settings.acknowledge()
        first, second = client.send(f"/3/device/{TOKEN}"), client.send(f"/3/device/{TOKEN}")
        assert client.wait(second).reset == 7  # REFUSED_STREAM
        assert client.wait(first).status == 200
        assert client.push().status == 200
    assert apns.journal.outcomes["refused"] == 1


def test_a_certificate_is_as_good_as_a_token(apns):
    with Http2Client(apns, apns.certificate(name="good")) as client:
        client.event(RemoteSettingsChanged)
        client.until(lambda: client.http2.remote_settings.max_concurrent_streams == 1000)
        assert client.push().status == 200  # its one topic goes without saying
        assert client.push(apns_topic="com.example.foreign").document == {"reason": "TopicDisallowed"}
    with Http2Client(apns, apns.certificate([TOPIC, "com.example.second"], name="two")) as client:
        assert client.push().document == {"reason": "MissingTopic"}
        assert client.push(apns_topic="com.example.second").status == 200


def test_a_certificate_for_somewhere_else(apns):
    with Http2Client(apns, apns.certificate(environments=["development"], name="away")) as client:
        answer = client.push(apns_topic=TOPIC)
        assert (answer.status, answer.document) == (403, {"reason": "BadCertificateEnvironment"})


def test_a_certificate_that_is_over_ends_the_connection(apns):
    with pytest.raises(OSError), Http2Client(apns, apns.certificate(days=-1, name="old")) as client:
        client.push()


def test_development_tells_one_more_id():
    with Apns(environment="development") as apns, connect(apns) as client:
        assert client.push().headers["apns-unique-id"]


def test_nothing_but_http2():
    import socket
    import ssl

    with Apns() as apns:
        context = ssl.create_default_context(cafile=apns.ca)
        with (
            socket.create_connection(("127.0.0.1", apns.port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as old,
        ):
            assert old.recv(1) == b""


def test_the_journal_says_what_came(apns, client):
    apns.journal.clear()
    client.push(apns_id="123e4567-e89b-12d3-a456-426614174000", apns_priority="5")
    client.push("zz")
    first, second = apns.journal.wait(2)
    assert (first.token, first.apns_id, first.payload) == (
        TOKEN,
        "123e4567-e89b-12d3-a456-426614174000",
        PAYLOAD,
    )
    assert (first.status, first.outcome, first.headers["apns-priority"]) == (200, "answered", "5")
    assert first.document == {"aps": {"alert": "hello"}}
    assert (second.status, second.reason, second.connection) == (400, "BadDeviceToken", first.connection)
    assert apns.journal.account() == {
        "total": 2,
        "statuses": {"200": 1, "400": 1},
        "reasons": {"BadDeviceToken": 1},
        "outcomes": {"answered": 2},
    }
    assert apns.journal.delivered == {TOKEN: 1}
    assert apns.journal.of(TOKEN) == [first]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"environment": "test"}, "environment is 'test'; one of development, production is needed"),
        ({"token_updates": 0}, "token_updates is 0; at least 1 is needed"),
        ({"port": 70_000}, "port is 70000"),
        ({"latency": -1}, "latency is -1; seconds from 0 are needed"),
        ({"streams": -1}, "streams is -1; a whole number"),
        ({"journal_limit": 0}, "journal_limit is 0"),
    ],
)
def test_settings_without_sense(settings, text):
    with pytest.raises(ValueError, match=text):
        Apns(**settings)
