"""The tables of what gateways say, each reason with its fate, and what each reply leads to."""

from __future__ import annotations

import orjson
import pytest

from aggregator.errors import SinkUnavailableError
from aggregator.push import Notification
from aggregator.sinks import apns_verdicts, fcm_verdicts
from aggregator.sinks.apns import ApnsGateway
from aggregator.sinks.base import Fate, Verdict
from aggregator.sinks.fcm import FcmGateway, Quota
from aggregator.sinks.push_batch import Reply, Request, Scope
from aggregator.sinks.push_hold import LONGEST, STRAIN, Hold, Pace
from aggregator.sinks.push_tokens import BearerToken
from aggregator.testing.clock import VirtualClock
from tests.pushes import ALERT, address

#: As docs/push-gateways.md has it: status, reason, fate, scope, whether the token is reported.
APNS = """
400 BadCollapseId dead_letter one -
400 BadDeviceToken refused one reported
400 BadExpirationDate dead_letter one -
400 BadMessageId dead_letter one -
400 BadPriority dead_letter one -
400 BadTopic blocked all -
400 DeviceTokenNotForTopic refused one -
400 DuplicateHeaders dead_letter one -
400 IdleTimeout retry one -
400 InvalidPushType dead_letter one -
400 MissingDeviceToken refused one -
400 MissingTopic blocked all -
400 PayloadEmpty dead_letter one -
400 TopicDisallowed blocked all -
403 BadCertificate blocked all -
403 BadCertificateEnvironment blocked all -
403 BadEnvironmentKeyIdInToken blocked all -
403 ExpiredProviderToken retry again -
403 Forbidden blocked all -
403 InvalidProviderToken retry again -
403 MissingProviderToken retry again -
403 UnrelatedKeyIdInToken blocked all -
404 BadPath blocked all -
405 MethodNotAllowed blocked all -
410 ExpiredToken refused one reported
410 Unregistered refused one reported
413 PayloadTooLarge dead_letter one -
429 TooManyProviderTokenUpdates retry all -
429 TooManyRequests retry one -
500 InternalServerError retry one -
503 ServiceUnavailable retry one -
503 Shutdown retry one -
400 BadNews dead_letter one -
403 BadNews blocked all -
410 BadNews refused one -
429 BadNews retry one -
502 BadNews retry one -
301 BadNews blocked all -
"""
FCM = """
400 INVALID_ARGUMENT dead_letter one -
401 THIRD_PARTY_AUTH_ERROR blocked all -
403 SENDER_ID_MISMATCH refused one -
404 UNREGISTERED refused one reported
429 QUOTA_EXCEEDED retry one -
500 INTERNAL retry one -
503 UNAVAILABLE retry one -
401 UNAUTHENTICATED retry again -
403 PERMISSION_DENIED blocked all -
404 NOT_FOUND blocked all -
429 RESOURCE_EXHAUSTED retry one -
504 DEADLINE_EXCEEDED retry one -
400 NEWS dead_letter one -
409 NEWS blocked all -
502 NEWS retry one -
"""


def rows(table):
    return [line.split() for line in table.strip().splitlines()]


class Tokens(BearerToken):
    youngest = 1200.0

    def make(self, now):
        self.made = getattr(self, "made", 0) + 1
        return b"token-%d" % self.made, 2400.0


class Reports:
    def __init__(self):
        self.told = []

    def report(self, address, reason, unregistered_at):
        self.told.append((address.token, reason, unregistered_at))


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def hold(clock):
    return Hold(clock)


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def apns(clock, hold, reports):
    return ApnsGateway(Tokens(clock), "com.example.app", hold, reports)


@pytest.fixture
def fcm(clock, hold, reports):
    return FcmGateway(
        Tokens(clock), b"/v1/projects/p/messages:send", pace=Pace(1000, clock),
        quota=Quota(hold), hold=hold, feedback=reports, dry_run=False, clock=clock,
    )  # fmt: skip


def ask(gateway, to, status, body=b"", retry_after=0.0):
    request = gateway.request(to)
    assert isinstance(request, Request)
    return gateway.ruling(to, request, Reply(status, body, retry_after))


def fcm_body(status, word, *details):
    own = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": word}
    return orjson.dumps({"error": {"code": status, "status": "X", "details": [own, *details]}})


def test_each_documented_reason_is_in_the_table():
    assert {reason for _, reason, *_ in rows(APNS)} - {"BadNews"} == set(apns_verdicts.REASONS)
    told = {reason for _, reason, *_ in rows(FCM)} - {"NEWS"}
    assert told == set(fcm_verdicts.REASONS) - {"INVALID_TOKEN"}


@pytest.mark.parametrize("row", rows(APNS), ids=" ".join)
def test_apns(apns, reports, row):
    status, reason, fate, scope, report = row
    ruling = ask(
        apns, address(1), int(status), orjson.dumps({"reason": reason, "timestamp": 1_700_000_123_456})
    )
    assert (ruling.verdict.fate, ruling.scope) == (Fate(fate), Scope(scope))
    assert (ruling.verdict.reason, ruling.verdict.status) == (reason, int(status))
    expected = [(address(1).token, reason, 1_700_000_123.456)] if report == "reported" else []
    assert reports.told == expected


@pytest.mark.parametrize("row", rows(FCM), ids=" ".join)
def test_fcm(fcm, reports, clock, row):
    status, reason, fate, scope, report = row
    ruling = ask(fcm, address(1, platform="fcm"), int(status), fcm_body(int(status), reason))
    assert (ruling.verdict.fate, ruling.scope) == (Fate(fate), Scope(scope))
    assert (ruling.verdict.reason, ruling.verdict.status) == (reason, int(status))
    assert reports.told == ([(address(1).token, reason, clock.time())] if report == "reported" else [])


@pytest.mark.parametrize("reason", ["BadTopic", "TopicDisallowed", "MissingTopic"])
def test_a_topic_of_its_own_concerns_the_notification_alone(apns, reason):
    own = address(1, Notification(payload=ALERT, topic="com.example.other"))
    ruling = ask(apns, own, 400, orjson.dumps({"reason": reason}))
    assert (ruling.verdict.fate, ruling.scope) == (Fate.DEAD_LETTER, Scope.ONE)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"reason":7}', b'{"reason":"<script>"}', b"\xff"])
def test_a_body_that_is_none_of_apns_goes_by_its_status(apns, body):
    ruling = ask(apns, address(1), 500, body)
    assert (ruling.verdict.fate, ruling.verdict.reason) == (Fate.RETRY, "http-500")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":"x"}', b'{"error":{"status":"<a b>"}}'])
def test_a_body_that_is_none_of_fcm_goes_by_its_status(fcm, body):
    ruling = ask(fcm, address(1, platform="fcm"), 502, body)
    assert (ruling.verdict.fate, ruling.verdict.reason) == (Fate.RETRY, "http-502")


def test_an_argument_that_is_the_token_concerns_the_device(fcm, reports):
    field = {"@type": "x", "fieldViolations": [{"field": "message.token", "description": "Invalid"}]}
    ruling = ask(fcm, address(1, platform="fcm"), 400, fcm_body(400, "INVALID_ARGUMENT", field))
    assert (ruling.verdict.fate, ruling.verdict.reason) == (Fate.REFUSED, "INVALID_TOKEN")
    assert not reports.told


def test_another_argument_is_named_without_its_value(fcm):
    field = {"@type": "x", "fieldViolations": [{"field": "message.data", "description": "secret"}]}
    ruling = ask(fcm, address(1, platform="fcm"), 400, fcm_body(400, "INVALID_ARGUMENT", field))
    assert ruling.verdict.detail == "at message.data"


def test_a_provider_token_is_renewed_once(apns, clock):
    to, body = address(1), b'{"reason":"ExpiredProviderToken"}'
    first = apns.request(to)
    assert apns.ruling(to, first, Reply(403, body)).scope is Scope.AGAIN
    second = apns.request(to)
    assert second.headers[0] == b"authorization: bearer token-2"
    # of those sent with the first one none is lost
    assert apns.ruling(to, first, Reply(403, body)).scope is Scope.AGAIN
    ruling = apns.ruling(to, second, Reply(403, body))
    assert (ruling.verdict.fate, ruling.scope) == (Fate.BLOCKED, Scope.ALL)
    clock.advance(1200)
    assert apns.ruling(to, second, Reply(403, body)).scope is Scope.AGAIN


def test_a_certificate_cannot_be_renewed(hold):
    gateway = ApnsGateway(None, "com.example.app", hold, None)
    ruling = ask(gateway, address(1), 403, b'{"reason":"MissingProviderToken"}')
    assert (ruling.verdict.fate, ruling.scope) == (Fate.BLOCKED, Scope.ALL)


def test_an_access_token_that_cannot_be_fetched_stops_the_batch(fcm, monkeypatch):
    def fail(_self, _now):
        raise SinkUnavailableError("no access token")

    monkeypatch.setattr(Tokens, "make", fail)
    ruling = ask(fcm, address(1, platform="fcm"), 401, fcm_body(401, "UNAUTHENTICATED"))
    assert (ruling.verdict.fate, ruling.scope) == (Fate.RETRY, Scope.ALL)


def strained(gateway, to, status, body, retry_after=0.0):
    """Have the gateway say it until it concerns all; return how often that was."""
    for times in range(1, 1000):
        if ask(gateway, to, status, body, retry_after).scope is Scope.ALL:
            return times
    raise AssertionError


@pytest.mark.parametrize("status", [429, 500, 503])
def test_one_push_is_put_off_for_as_long_as_apns_says(apns, hold, status):
    ruling = ask(apns, address(1), status, b'{"reason":"ServiceUnavailable"}', 90.0)
    assert ruling == (Verdict(Fate.RETRY, "ServiceUnavailable", status=status, after=90.0), Scope.ONE)
    hold.check()


def test_one_in_a_few_holds_nobody_else(apns, fcm, hold):
    for _ in range(500):
        assert ask(apns, address(1), 503, b'{"reason":"ServiceUnavailable"}', 90.0).scope is Scope.ONE
        assert ask(apns, address(2), 200).scope is Scope.ONE
        ask(apns, address(3), 410, b'{"reason":"Unregistered"}')
    to = address(1, platform="fcm")
    for _ in range(500):
        ruling = ask(fcm, to, 429, fcm_body(429, "QUOTA_EXCEEDED"))
        assert (ruling.verdict.after, ruling.scope) == (60.0, Scope.ONE)
        assert ask(fcm, to, 503, fcm_body(503, "UNAVAILABLE"), 7.0).verdict.after == 7.0
        ask(fcm, to, 200)
        ask(fcm, to, 404, fcm_body(404, "UNREGISTERED"))
    hold.check()


def test_no_push_is_put_off_for_ever(apns):
    assert ask(apns, address(1), 503, b"{}", 1e9).verdict.after == LONGEST


@pytest.mark.parametrize("status", [429, 500, 503])
def test_apns_is_left_alone_for_as_long_as_it_says_once_most_are_put_off(apns, hold, clock, status):
    assert strained(apns, address(1), status, b'{"reason":"ServiceUnavailable"}', 90.0) == STRAIN
    # of those under way, none starts it anew
    assert ask(apns, address(1), status, b'{"reason":"ServiceUnavailable"}', 90.0).scope is Scope.ALL
    clock.advance(89)
    with pytest.raises(SinkUnavailableError, match="ServiceUnavailable"):
        hold.check()
    clock.advance(2)
    hold.check()


def test_one_device_too_often_holds_nobody_else(apns, hold):
    for _ in range(100):
        ruling = ask(apns, address(1), 429, b'{"reason":"TooManyRequests"}', 90.0)
        assert (ruling.verdict.fate, ruling.verdict.after, ruling.scope) == (Fate.RETRY, 90.0, Scope.ONE)
    assert ask(apns, address(1), 429, b'{"reason":"TooManyRequests"}').verdict.after == 10.0
    hold.check()


def test_the_quota_costs_a_minute_at_least_and_more_each_time(fcm, hold, clock):
    to = address(1, platform="fcm")
    pauses = []
    for _ in range(4):
        strained(fcm, to, 429, fcm_body(429, "QUOTA_EXCEEDED"))
        for _ in range(3):  # of those under way together one counts
            ask(fcm, to, 429, fcm_body(429, "QUOTA_EXCEEDED"))
        start = clock.monotonic()
        while hold.held:
            clock.advance(1)
        pauses.append(clock.monotonic() - start)
    assert 60 <= pauses[0] <= 121
    assert pauses == sorted(pauses)
    assert pauses[3] >= 480
    ask(fcm, to, 200)
    strained(fcm, to, 429, fcm_body(429, "QUOTA_EXCEEDED"))
    clock.advance(121)
    hold.check()


def test_fcm_is_left_alone_for_as_long_as_it_says_once_most_are_put_off(fcm, hold, clock):
    for status, word in ((429, "QUOTA_EXCEEDED"), (503, "UNAVAILABLE")):
        assert strained(fcm, address(1, platform="fcm"), status, fcm_body(status, word), 7.0) == STRAIN
        assert hold.held
        clock.advance(7.5)
        assert not hold.held
