"""What a push message may say, when it may be sent, and what is refused of it."""

from __future__ import annotations

import uuid
from math import inf

import orjson
import pytest

from aggregator.errors import MessageRefusedError
from aggregator.push import DAY, Address, Notification
from aggregator.push_message import fault_of, read_push

NOW = 1_700_000_000.0


def push(**changes):
    message = {
        "campaign": "c1",
        "platform": "apns",
        "app": "news",
        "notification": {
            "payload": {"aps": {"alert": "Ünïcode"}},
            "collapse_id": "c1",
            "priority": 10,
            "push_type": "alert",
            "topic": "com.example",
            "ttl": 60,
        },
        "recipients": [["d1", "t1", 1690000000], [7, "t2"]],
        "claim": "the sender's own",
    }
    return {name: value for name, value in {**message, **changes}.items() if value is not ...}


def notified(**changes):
    return push(notification={**push()["notification"], **changes})


def test_all_that_it_says_is_read():
    message = read_push(push(), NOW)
    assert (message.platform, message.app, message.recipients) == (
        "apns",
        "news",
        [["d1", "t1", 1690000000], [7, "t2"]],
    )
    assert orjson.loads(message.notification.payload) == {"aps": {"alert": "Ünïcode"}}
    assert message.notification == Notification(
        payload=message.notification.payload,
        campaign="c1",
        topic="com.example",
        collapse_id="c1",
        push_type="alert",
        priority=10,
        expiration=int(NOW) + 60,
    )


def test_a_single_device():
    message = read_push(push(recipients=..., device="d", token="t", registered=5), NOW)
    assert message.recipients == [["d", "t", 5]]
    assert read_push(push(recipients=..., token="t"), NOW).recipients == [["", "t", None]]


def test_a_ttl_of_nothing_is_one_try():
    assert read_push(notified(ttl=0), NOW).notification.expiration == 0
    assert read_push(notified(ttl=None), NOW).notification.expiration is None
    assert read_push(notified(ttl=None, expiration=NOW + 5.5), NOW).notification.expiration == NOW + 5


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ([], "the message is no object"),
        (push(campaign=...), "campaign"),
        (push(campaign=""), "campaign"),
        (push(campaign=3), "campaign"),
        (push(app=3), "app"),
        (push(platform="web"), "platform is none of apns, fcm"),
        (push(platform=["apns"]), "platform"),
        (push(notification="text"), "notification is no object"),
        (notified(payload={}), "payload"),
        (notified(payload="text"), "payload"),
        (notified(payload={"secret": b"\0"}), "payload is no JSON"),
        (notified(payload={1: 2}), "payload is no JSON"),
        (notified(colapse_id="x"), "1 unknown fields"),
        (notified(collapse_id="x" * 65), "more than 64 bytes"),
        (notified(priority="10"), "priority"),
        (notified(priority=True), "priority"),
        (notified(priority=11), "priority"),
        (notified(topic=1), "topic"),
        (notified(push_type=["alert"]), "push_type"),
        (notified(ttl=-1), "ttl"),
        (notified(ttl=float("nan")), "ttl"),
        (notified(expiration=5), "one of the two"),
        (push(recipients=...), "recipients are missing"),
        (push(recipients=[]), "recipients"),
        (push(recipients={"d": "t"}), "recipients"),
        (push(token="t"), "one of the two"),
        (push(not_before="soon"), "not_before"),
        (push(expires=-3), "expires"),
        (push(not_before=5, not_after=5), "not_after"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_of_it_told(message, said):
    with pytest.raises(MessageRefusedError) as caught:
        read_push(message, NOW)
    assert caught.value.reason == "bad-push"
    assert said in caught.value.detail
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize(
    ("recipient", "said"),
    [
        (["d", "t"], ""),
        (["d", "t", None], ""),
        ([5, "t", 1.5], ""),
        ("dt", "is no list"),
        (["d"], "is no list"),
        (["d", "t", 1, 2], "is no list"),
        ([True, "t"], "device"),
        ([None, "t"], "device"),
        (["d", ""], "token"),
        (["d", 5], "token"),
        (["d", "t", "yesterday"], "registered"),
        (["d", "t", -1], "registered"),
        (["d", "t", float("inf")], "registered"),
    ],
)
def test_a_recipient(recipient, said):
    fault = fault_of(recipient)
    assert (said in fault) if said else not fault


# ── windows ──


def due(now, **window):
    return read_push(push(notification={"payload": {"a": 1}}, **window), NOW).notification.due(now)


def test_without_a_window_it_is_sent_at_once():
    assert due(NOW) == NOW


def test_before_its_window_it_waits_for_it():
    assert due(NOW, not_before=NOW + 10) == NOW + 10
    assert due(NOW + 10, not_before=NOW + 10) == NOW + 10


def test_after_its_window_it_never_goes_unless_it_opens_again():
    assert due(NOW + 21, not_before=NOW, not_after=NOW + 20) == inf
    assert due(NOW + 21, not_before=NOW, not_after=NOW + 20, next_window=NOW + 50) == NOW + 50


def test_each_window_of_a_list_is_daily_until_the_next_begins():
    first, later = NOW + DAY, NOW + 4 * DAY + 3600  # clocks are put back by an hour before the latter
    window = {
        "not_before": NOW,
        "not_after": NOW + 60,
        "next_window": [[first, first + 7200], [later, later + 9]],
    }
    assert due(NOW + 61, **window) == first
    assert due(NOW + 2 * DAY + 5, **window) == NOW + 2 * DAY + 5
    assert due(NOW + 2 * DAY + 7201, **window) == NOW + 3 * DAY
    assert due(NOW + 3 * DAY + 7201, **window) == later
    assert due(NOW + 4 * DAY + 5, **window) == later
    assert due(later + 5, **window) == later + 5
    assert due(later + 10, **window) == later + DAY


@pytest.mark.parametrize(
    "windows", [[5], [[5]], [[5, "a"]], [[5, 5]], [[7, 5]], [[5, 7], [6, 8]], [[5, 7, 9]], [[True, 5]]]
)
def test_windows_that_are_none_are_refused(windows):
    with pytest.raises(MessageRefusedError, match="next_window"):
        due(NOW, next_window=windows)


def test_a_window_with_an_end_of_all_opens_each_day():
    window = {"not_before": NOW, "not_after": NOW + 3600, "expires": NOW + 3 * DAY}
    assert due(NOW + 3601, **window) == NOW + DAY
    assert due(NOW + DAY + 10, **window) == NOW + DAY + 10
    assert due(NOW + DAY + 3700, **window) == NOW + 2 * DAY
    assert due(NOW + 2 * DAY + 3700, **window) == inf
    assert due(NOW + 3 * DAY, **window) == inf


def test_what_expires_is_sent_no_more():
    assert due(NOW + 5, expires=NOW + 5) == inf
    assert due(NOW, not_before=NOW + 10, expires=NOW + 5) == inf
    assert read_push(notified(ttl=60), NOW).notification.due(NOW + 60) == inf
    assert read_push(notified(ttl=0), NOW).notification.due(NOW + 60) == NOW + 60


# ── ids ──


def address(device, campaign="c1", token="t"):
    return Address(token, device, "apns", "", 0, 0, Notification(payload=b"{}", campaign=campaign))


def test_the_id_is_of_campaign_and_device_alone():
    assert address("d", token="old").apns_id == address("d", token="new").apns_id
    assert len({address("d").apns_id, address("e").apns_id, address("d", "c2").apns_id}) == 3
    assert address("", token="old").apns_id != address("", token="new").apns_id
    assert uuid.UUID(address("d").apns_id).version == 8
