"""The simulated FCM and its token endpoint, held against Google's own library and raw requests."""

from __future__ import annotations

import json
import time

import jwt
import pytest
import requests
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request as Transport
from google.oauth2.service_account import Credentials
from h2.events import RemoteSettingsChanged

from aggregator.testing.gateways import Fcm
from aggregator.testing.gateways.certificates import pem, signing_key
from aggregator.testing.gateways.fcm_checks import KNOWN, REASONS
from tests.http2_client import Http2Client

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
PATH = "/v1/projects/example-project/messages:send"
TOKEN = "device:one-1_2"


class Wall:
    """Clocks that are set by hand."""

    def __init__(self):
        self.now = time.time()

    def time(self):
        return self.now

    def monotonic(self):
        return self.now


@pytest.fixture(scope="module")
def fcm():
    with Fcm() as fcm:
        yield fcm


@pytest.fixture(scope="module")
def bearer(fcm):
    return fetch(fcm)


def fetch(fcm, scope=SCOPE):
    """Return a bearer token, as Google's own library gets it."""
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE beats a session's own setting
        session.verify = str(fcm.ca)
        found = Credentials.from_service_account_file(str(fcm.credentials), scopes=[scope])
        found.refresh(Transport(session))
        return found.token


@pytest.fixture
def client(fcm, bearer):
    fcm.script.clear()
    fcm.journal.clear()
    with Http2Client(fcm, authorization=f"Bearer {bearer}") as client:
        yield client


def send(client, message, path=PATH, more=None, **headers):
    body = message if isinstance(message, bytes) else json.dumps({"message": message} | (more or {})).encode()
    return client.wait(client.send(path, body, **headers))


def code_of(answer):
    details = answer.document["error"].get("details", [])
    return next((one["errorCode"] for one in details if "errorCode" in one), None)


def test_a_right_message_gets_a_name(fcm, client):
    answer = send(client, {"token": TOKEN, "notification": {"title": "a"}, "data": {"n": "1"}})
    assert answer.status == 200
    assert answer.document["name"].startswith("projects/example-project/messages/0:")
    entry = fcm.journal.wait(1)[0]
    assert (entry.token, entry.status, entry.document["message"]["data"]) == (TOKEN, 200, {"n": "1"})


def test_a_dry_run_gets_the_name_of_none(client):
    answer = send(client, {"token": TOKEN}, more={"validate_only": True})
    assert answer.document == {"name": "projects/example-project/messages/fake_message_id"}


def test_settings_hold_from_the_first_stream(client):
    client.event(RemoteSettingsChanged)
    assert client.http2.remote_settings.max_concurrent_streams == 100


@pytest.mark.parametrize(
    ("message", "text", "code", "field"),
    [
        ({}, "Recipient of the message is not set.", "INVALID_ARGUMENT", "message"),
        ({"token": "a b"}, "not a valid FCM registration token", "INVALID_ARGUMENT", "message.token"),
        ({"token": "a", "topic": "b"}, "Exactly one of", "INVALID_ARGUMENT", None),
        (
            {"token": "a", "data": {"n": 12}},
            "'message.data[0].value' (TYPE_STRING), 12",
            None,
            "message.data[0].value",
        ),
        ({"token": "a", "data": {"from": "x"}}, "data payload key: from", "INVALID_ARGUMENT", "message.data"),
        ({"token": "a", "data": {"google.x": "x"}}, "key: google.x", "INVALID_ARGUMENT", "message.data"),
        ({"token": "a", "data": []}, "Invalid value at 'message.data'", None, "message.data"),
        ({"token": "a", "badge": 1}, "Unknown name \"badge\" at 'message'", None, "message"),
        ({"token": "a", "android": 1}, "Invalid value at 'message.android'", None, "message.android"),
        ({"token": "a", "android": {"loud": 1}}, 'Unknown name "loud"', None, "message.android"),
        ({"token": "a", "android": {"ttl": 5}}, "Duration), 5", None, "message.android.ttl"),
        (
            {"token": "a", "android": {"ttl": "2419201s"}},
            "Invalid TTL",
            "INVALID_ARGUMENT",
            "message.android.ttl",
        ),
        ({"token": "a", "android": {"priority": "loud"}}, '"loud"', None, "message.android.priority"),
        ({"token": "a", "data": {"a": "x" * 4096}}, "message is too big", "INVALID_ARGUMENT", None),
        ({"topic": "a", "data": {"a": "x" * 2048}}, "message is too big", "INVALID_ARGUMENT", None),
        (b"{", "Invalid JSON payload received.", None, None),
        (b"[]", "Invalid JSON payload received.", None, None),
        (b'{"messages":[]}', 'Unknown name "messages"', None, None),
        (b'{"message":{"token":"a"},"validate_only":"yes"}', "validate_only", None, "validate_only"),
    ],
)
def test_each_fault_of_a_message(client, message, text, code, field):
    answer = send(client, message)
    error = answer.document["error"]
    assert (answer.status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert text in error["message"]
    assert code_of(answer) == code
    fields = [
        one["fieldViolations"][0]["field"] for one in error.get("details", []) if "fieldViolations" in one
    ]
    assert fields == ([field] if field else [])


@pytest.mark.parametrize(
    "message",
    [
        {"token": "a", "data": {"a": "x" * 4095}},
        {"topic": "a", "data": {"a": "x" * 2047}},
        {"token": "a", "android": {"ttl": "2419200s", "priority": "NORMAL", "collapseKey": "a"}},
        {"token": "a", "android": {"ttl": "3.5s", "priority": "high", "direct_boot_ok": True}, "apns": {}},
    ],
)
def test_what_just_fits_is_taken(client, message):
    assert send(client, message).status == 200


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason != "BAD_GATEWAY"])
def test_each_reason_can_be_asked_for(fcm, client, reason):
    fcm.script.answer(reason, times=1, retry_after=30)
    answer = send(client, {"token": TOKEN})
    assert (answer.status, answer.document["error"]["code"]) == (REASONS[reason],) * 2
    assert code_of(answer) == (reason if reason in KNOWN else None)
    assert answer.headers["retry-after"] == "30"
    assert send(client, {"token": TOKEN}).status == 200


def test_a_gateways_trouble_is_told_in_html(fcm, client):
    fcm.script.answer("BAD_GATEWAY", times=1)
    answer = send(client, {"token": TOKEN})
    assert (answer.status, answer.headers["content-type"]) == (502, "text/html; charset=UTF-8")
    assert answer.body.startswith(b"<!DOCTYPE html>")


def test_paths_and_projects(client):
    assert send(client, {"token": TOKEN}, "/v1/projects/example-project/messages").status == 404
    answer = send(client, {"token": TOKEN}, "/v1/projects/another/messages:send")
    assert (answer.status, answer.document["error"]["status"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("header", [None, "Bearer wrong", "key=legacy"])
def test_without_a_bearer_token(client, header):
    answer = send(client, {"token": TOKEN}, authorization=header)
    assert (answer.status, answer.document["error"]["status"]) == (401, "UNAUTHENTICATED")


def test_bearer_tokens_end():
    clock = Wall()
    with Fcm(clock=clock, lifetime=100) as fcm:
        with Http2Client(fcm, authorization=f"Bearer {fetch(fcm)}") as client:
            assert send(client, {"token": TOKEN}).status == 200
            clock.now += 100
            assert send(client, {"token": TOKEN}).status == 401
            fresh = f"Bearer {fetch(fcm)}"
            assert send(client, {"token": TOKEN}, authorization=fresh).status == 200
            fcm.tokens.expire()
            assert send(client, {"token": TOKEN}, authorization=fresh).status == 401
        assert fcm.tokens.granted == 2


def test_the_quota_is_of_a_minute():
    clock = Wall()
    with Fcm(clock=clock, quota=2) as fcm, Http2Client(fcm, authorization=f"Bearer {fetch(fcm)}") as client:
        clock.now += 45
        assert [send(client, {"token": TOKEN}).status for _ in range(2)] == [200, 200]
        clock.now += 15
        answer = send(client, {"token": TOKEN})
        assert (answer.status, code_of(answer), answer.headers["retry-after"]) == (
            429,
            "QUOTA_EXCEEDED",
            "45",
        )
        clock.now += 45
        assert send(client, {"token": TOKEN}).status == 200


def assertion(fcm, key=None, algorithm="RS256", **claims):
    account = json.loads(fcm.credentials.read_text())
    now = int(time.time())
    base = {
        "iss": account["client_email"],
        "aud": account["token_uri"],
        "scope": SCOPE,
        "iat": now,
        "exp": now + 3600,
    }
    return jwt.encode(base | claims, key or account["private_key"], algorithm=algorithm)


def ask(fcm, signed, grant="urn:ietf:params:oauth:grant-type:jwt-bearer"):
    form = {"grant_type": grant, "assertion": signed}
    with requests.post(f"{fcm.url}/token", form, verify=str(fcm.ca), timeout=10) as answer:
        return answer.status_code, answer.json()


def test_an_assertion_by_hand(fcm):
    status, told = ask(fcm, assertion(fcm))
    assert (status, told["token_type"], told["expires_in"]) == (200, "Bearer", 3599)


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"iss": "somebody"}, "invalid_grant"),
        ({"aud": "somewhere"}, "invalid_grant"),
        ({"scope": "mail"}, "invalid_scope"),
        ({"exp": 7300}, "invalid_grant"),
        ({"exp": -100}, "invalid_grant"),
        ({"iat": 600}, "invalid_grant"),
        ({"key": pem(signing_key()).decode(), "algorithm": "ES256"}, "invalid_grant"),
    ],
)
def test_each_fault_of_an_assertion(fcm, claims, error):
    # times are seconds from the test on, which may be long after its collection
    claims = {
        name: value + int(time.time()) if name in {"exp", "iat"} else value for name, value in claims.items()
    }
    status, told = ask(fcm, assertion(fcm, **claims))
    assert (status, told["error"]) == (400, error)


def test_another_grant_and_a_broken_endpoint(fcm):
    assert ask(fcm, "x", grant="password")[1]["error"] == "unsupported_grant_type"
    fcm.tokens.failure = (503, "backend_error")
    try:
        assert ask(fcm, "x") == (503, {"error": "backend_error"})
    finally:
        fcm.tokens.failure = None


def test_googles_library_is_told_of_a_wrong_scope(fcm):
    with pytest.raises(RefreshError, match="invalid_scope"):
        fetch(fcm, "https://www.googleapis.com/auth/drive")


@pytest.fixture
def session(fcm, bearer):
    fcm.script.clear()
    fcm.journal.clear()
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE beats a session's own setting
        session.verify = str(fcm.ca)
        session.headers["authorization"] = f"Bearer {bearer}"
        yield session


def post(fcm, session, message=None):
    return session.post(fcm.url + PATH, json={"message": message or {"token": TOKEN}}, timeout=10)


def test_http1_answers_as_http2_does(fcm, session):
    fcm.script.answer("UNREGISTERED", nth=2)
    assert [post(fcm, session).status_code for _ in range(3)] == [200, 404, 200]
    assert {entry.connection for entry in fcm.journal} == {fcm.connections_made}
    assert [entry.stream for entry in fcm.journal] == [1, 2, 3]


@pytest.mark.parametrize("fault", ["rst", "cut", "drop", "goaway"])
def test_faults_end_a_connection_of_http1(fcm, session, fault):
    fcm.script.fault(fault, times=1)
    broken = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)
    with pytest.raises(broken):
        post(fcm, session)
    assert fcm.journal.wait(1)[0].outcome == fault
    assert post(fcm, session).status_code == 200


def test_http1_is_silent_and_slow_too(fcm, session):
    fcm.script.fault("silence", times=1, processed=True)
    with pytest.raises(requests.exceptions.ReadTimeout):
        session.post(fcm.url + PATH, json={"message": {"token": TOKEN}}, timeout=0.05)
    assert (fcm.journal.wait(1)[0].outcome, fcm.journal[0].delivered) == ("lost", True)
    fcm.script.slow(0.05)
    assert post(fcm, session).status_code == 200


def test_goaway_closes_http1_behind_the_answer(fcm, session):
    fcm.script.fault("goaway", times=1, processed=True)
    assert post(fcm, session).headers["connection"] == "close"
    post(fcm, session)
    fcm.goaway()
    assert post(fcm, session).status_code == 200


def test_who_speaks_no_http_is_shown_the_door(fcm):
    import socket
    import ssl

    context = ssl.create_default_context(cafile=fcm.ca)
    with (
        socket.create_connection(("127.0.0.1", fcm.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        client.sendall(b"hello\r\n\r\n")
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"project": "My Project"}, "project is 'My Project'; small letters"),
        ({"quota": 0}, "quota is 0; at least 1"),
        ({"lifetime": 0}, "lifetime is 0; more than 0"),
    ],
)
def test_settings_without_sense(settings, text):
    with pytest.raises(ValueError, match=text):
        Fcm(**settings)
