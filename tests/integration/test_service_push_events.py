"""Events of users from a real broker to the gateways: one notification for each user and device."""

from __future__ import annotations

import json

import pytest

from aggregator.testing.gateways import Apns, Fcm
from consumers.publisher import Outgoing
from tests.service import ROOT

pytestmark = pytest.mark.integration
#: The broker's version makes no difference.
on_one_broker = pytest.mark.parametrize("rabbitmq", ["rabbitmq4"], indirect=True)

TEMPLATES = ROOT / "docs/examples/push/letters.toml"
USERS, EVENTS = 30, 3
APPS = """
[apps.default]
url = [{apns}, {fcm}]
"""


@pytest.fixture
def apns():
    with Apns() as gateway:
        yield gateway


@pytest.fixture
def fcm():
    with Fcm() as gateway:
        yield gateway


def events(queue):
    """Yield events of all users, mixed; who has an odd number has a second device."""
    for number in range(EVENTS):
        for user in range(USERS):
            devices = [{"platform": "apns", "token": f"{user:064x}", "device": f"phone{user}"}]
            if user % 2:
                devices.append({"platform": "fcm", "token": f"tablet-{user}", "device": f"tablet{user}"})
            event = {"user": user, "type": "letter", "sender": f"Ann {number}", "devices": devices}
            properties = {"message_id": f"{user}-{number}", "content_type": "application/json"}
            yield Outgoing("", queue, json.dumps(event).encode(), properties)


def texts(gateway, *path):
    found = {}
    for entry in gateway.journal:
        if entry.token and entry.delivered:
            value = entry.document
            for name in path:
                value = value[name]
            found.setdefault(entry.token, []).append(value)
    return found


@on_one_broker
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_many_events_are_one_notification_for_each_device(stage, apns, fcm, tmp_path, kind):
    apps = tmp_path / "apps.toml"
    apps.write_text(APPS.format(apns=json.dumps(apns.sink_url()), fcm=json.dumps(fcm.sink_url())))
    stage.declare(kind)
    stage.publish(events(stage.queue))
    # one device is gone, and another gateway's answer is late
    apns.script.answer("Unregistered", token=f"{4:064x}")
    apns.script.answer("ServiceUnavailable", token=f"{5:064x}", times=1)
    service = stage.start(
        "--correlate", "/user", "--aggregate", f"push:{TEMPLATES}",
        "--size", str(EVENTS), "--age", "30s", "--retry-first", "20ms",
        "--metrics-port", "0", "--prefetch", "100", sink=f"push:{apps}",
    )  # fmt: skip
    service.wait_metric("aggregator_deliveries_total", lambda count: count == EVENTS, verdict="refused")
    service.wait_metric(
        "aggregator_deliveries_total", lambda count: count == (USERS - 1) * EVENTS, verdict="written"
    )
    stage.wait_empty()
    told = texts(apns, "aps", "alert", "body")
    assert told == {f"{user:064x}": [f"{EVENTS} new letters"] for user in range(USERS) if user != 4}
    assert texts(fcm, "message", "notification", "body") == {
        f"tablet-{user}": [f"{EVENTS} new letters"] for user in range(1, USERS, 2)
    }
    assert stage.dead() == []
    assert service.stop() == 0
