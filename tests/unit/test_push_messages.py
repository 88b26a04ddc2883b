"""Notifications as each gateway takes them; what it would refuse for all devices is refused before."""

from __future__ import annotations

import orjson
import pytest

from aggregator.errors import MessageRefusedError
from aggregator.push import Notification
from aggregator.push_message import address_of
from aggregator.sinks import apns_requests, fcm_message
from aggregator.sinks.apns import ApnsGateway
from aggregator.sinks.base import Fate, Verdict
from aggregator.sinks.push_hold import Hold
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery
from tests.pushes import ALERT, LETTER, address

LOUD = b'{"aps":{"content-available":1,"badge":1}}'
SILENT = b'{"aps":{"content-available":1},"id":7}'


def headers(notification, topic="com.example.app"):
    prepared = apns_requests.prepare(notification, topic)
    assert isinstance(prepared, apns_requests.Prepared), prepared
    return dict(line.decode().split(":", 1) for line in prepared.lines)


def test_apns_headers_of_a_bare_notification():
    told = headers(Notification(payload=ALERT))
    assert {name: value.strip() for name, value in told.items() if value} == {
        "content-type": "application/json",
        "apns-push-type": "alert",
        "apns-topic": "com.example.app",
    }


def test_apns_headers_of_a_full_one():
    full = Notification(
        payload=ALERT,
        topic="com.example.app.voip",
        collapse_id="ü" * 32,
        push_type="voip",
        priority=10,
        expiration=0,
    )
    told = headers(full)
    assert told["apns-topic"] == " com.example.app.voip"
    assert told["apns-collapse-id"] == " " + "ü" * 32
    assert told["apns-priority"] == " 10"
    assert told["apns-expiration"] == " 0"


def test_a_background_push_has_the_lower_priority_by_itself():
    assert headers(Notification(payload=SILENT, push_type="background"))["apns-priority"] == " 5"
    low = Notification(payload=SILENT, push_type="background", priority=1)
    assert headers(low)["apns-priority"] == " 1"


APNS_FAULTS = [
    ("payload-too-large", {"payload": b" " * 4097}),
    ("payload-too-large", {"payload": b" " * 5121, "push_type": "voip"}),
    ("bad-collapse-id", {"collapse_id": "x" * 65}),
    ("bad-collapse-id", {"collapse_id": "ü" * 33}),
    ("bad-header", {"collapse_id": "a\r\nauthorization: bearer x"}),
    ("bad-header", {"topic": "a\0"}),
    ("bad-header", {"collapse_id": "\ud800"}),
    ("InvalidPushType", {"push_type": "loud"}),
    ("InvalidPushType", {"push_type": "alert\r\nx: y"}),
    ("BadPriority", {"priority": 7}),
    ("bad-background-push", {"push_type": "background"}),
    ("bad-background-push", {"push_type": "background", "payload": SILENT, "priority": 10}),
    ("bad-background-push", {"push_type": "background", "payload": b"{}"}),
    ("bad-background-push", {"push_type": "background", "payload": b'{"aps":7}'}),
    ("bad-background-push", {"push_type": "background", "payload": LOUD}),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "fields"), APNS_FAULTS)
def test_apns_faults(reason, fields):
    refused = apns_requests.prepare(Notification(**{"payload": ALERT, **fields}), "com.example.app")
    assert isinstance(refused, Verdict)
    assert (refused.fate, refused.reason) == (Fate.DEAD_LETTER, reason)
    assert "authorization" not in refused.detail


@pytest.mark.parametrize("fields", [{"payload": b" " * 4096}, {"payload": b" " * 5120, "push_type": "voip"}])
def test_what_just_fits(fields):
    headers(Notification(**fields))


@pytest.mark.parametrize("token", ["", "a/b", "../x", "ab?c", "ü", "a b", "a" * 201, "a\r\nb"])
def test_a_token_that_is_none_is_never_sent(token):
    gateway = ApnsGateway(None, "com.example.app", Hold(VirtualClock()), None)
    refused = gateway.request(address(token_of=lambda _: token))
    assert (refused.fate, refused.reason) == (Fate.REFUSED, "BadDeviceToken")


def test_the_id_is_of_campaign_and_device():
    gateway = ApnsGateway(None, "com.example.app", Hold(VirtualClock()), None)
    first, second = (gateway.request(address(1)).headers[-1] for _ in range(2))
    assert first == second == b"apns-id: " + address(1).apns_id.encode()
    assert gateway.request(address(2)).headers[-1] != first


def body(notification, token="t", *, dry_run=False, now=1000.0):
    prepared = fcm_message.prepare(notification, dry_run=dry_run, now=now)
    assert isinstance(prepared, fcm_message.Prepared), prepared
    return orjson.loads(prepared.body(token))


def test_a_token_is_spliced_in():
    told = {"message": {"token": "t:1", "notification": {"title": "3 new letters"}}}
    assert body(Notification(payload=LETTER), "t:1") == told
    assert body(Notification(payload=b"{}"), "t:1") == {"message": {"token": "t:1"}}


@pytest.mark.parametrize("token", ['"', "\\", '","topic":"all', "\n", "ü🐇", "\u2028"])
def test_whatever_a_token_holds_stays_in_it(token):
    assert body(Notification(payload=LETTER), token)["message"]["token"] == token


def test_half_a_character_is_no_token():
    prepared = fcm_message.prepare(Notification(payload=LETTER), dry_run=False, now=0)
    with pytest.raises(TypeError):
        prepared.body("\ud800")


def test_a_dry_run_says_so():
    assert body(Notification(payload=LETTER), dry_run=True)["validate_only"] is True
    assert "validate_only" not in body(Notification(payload=LETTER))


def test_what_android_is_told():
    full = Notification(payload=LETTER, collapse_id="letters", priority=10, expiration=1060)
    told = {"collapse_key": "letters", "priority": "HIGH", "ttl": "60s"}
    assert body(full)["message"]["android"] == told
    own = Notification(payload=b'{"android":{"ttl":"5s"}}', priority=5, expiration=1060)
    assert body(own)["message"]["android"] == {"priority": "NORMAL", "ttl": "5s"}


@pytest.mark.parametrize(("expiration", "ttl"), [(0, "0s"), (900, "0s"), (10**10, "2419200s")])
def test_times_to_live(expiration, ttl):
    assert body(Notification(payload=LETTER, expiration=expiration))["message"]["android"]["ttl"] == ttl


FCM_FAULTS = [
    ("bad-push", b"[]"),
    ("bad-push", b"x"),
    ("bad-push", b'{"token":"x"}'),
    ("bad-push", b'{"topic":"x"}'),
    ("bad-push", b'{"condition":"x"}'),
    ("bad-push", b'{"android":[]}'),
    ("bad-data", b'{"data":{"count":3}}'),
    ("bad-data", b'{"data":[]}'),
    ("bad-data", b'{"android":{"data":{"a":null}}}'),
    ("payload-too-large", b'{"data":{"a":"%b"}}' % (b"x" * 4096)),
]


@pytest.mark.parametrize(("reason", "payload"), FCM_FAULTS)
def test_fcm_faults(reason, payload):
    refused = fcm_message.prepare(Notification(payload=payload), dry_run=False, now=0)
    assert isinstance(refused, Verdict)
    assert (refused.fate, refused.reason) == (Fate.DEAD_LETTER, reason)


GOOD = {
    "platform": "apns", "app": "news", "campaign": "c1", "device": "d1", "token": "ab", "registered": 5,
    "notification": {"payload": {"aps": {}}, "topic": "t", "ttl": 60, "priority": 5},
}  # fmt: skip


def message(**changed):
    made = MemoryDelivery(
        orjson.dumps({name: value for name, value in (GOOD | changed).items() if value != ""})
    )
    made.id = "m1"
    return address_of(made, VirtualClock(time=1000.0))


def test_a_message_for_one_device():
    found = message()
    assert (found.token, found.device, found.platform, found.app) == ("ab", "d1", "apns", "news")
    assert found.registered == 5
    expected = Notification(payload=b'{"aps":{}}', campaign="c1", topic="t", priority=5, expiration=1060)
    assert found.notification == expected


def test_what_may_be_left_away():
    found = message(
        app="", campaign="", device="", registered="", notification={"payload": {"a": 1}, "ttl": 0}
    )
    assert found.notification == Notification(payload=b'{"a":1}', campaign="m1", expiration=0)


@pytest.mark.parametrize(
    "changed",
    [
        {"token": ""}, {"token": 7}, {"platform": "web"}, {"platform": ""}, {"app": 7}, {"registered": "now"},
        {"notification": ""}, {"notification": []}, {"notification": {}}, {"notification": {"payload": "x"}},
        {"notification": {"payload": {}}}, {"notification": {"payload": {"a": 1}, "colour": 1}},
        {"notification": {"payload": {"a": 1}, "ttl": -1}},
        {"notification": {"payload": {"a": 1}, "ttl": 1, "expiration": 1}},
        {"notification": {"payload": {"a": 1}, "topic": 1}}, {"recipients": [["d", "t"]]},
        {"token": "", "recipients": [["d1", "t1"], ["d2", "t2"]]}, {"token": "", "recipients": [["d1"]]},
    ],
)  # fmt: skip
def test_a_message_that_is_none(changed):
    with pytest.raises(MessageRefusedError, match="bad-push"):
        message(**changed)


@pytest.mark.parametrize("text", [b"[]", b"7", b"{}"])
def test_json_that_is_no_message(text):
    with pytest.raises(MessageRefusedError):
        address_of(MemoryDelivery(text))


@pytest.mark.parametrize("window", [{"not_before": 1001}, {"not_after": 999}, {"expires": 1000}])
def test_nothing_is_sent_outside_its_window(window):
    with pytest.raises(MessageRefusedError, match="outside-window"):
        message(**window)
    assert message(not_before=999, not_after=1001, expires=1001)
