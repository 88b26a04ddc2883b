"""Events of a user become one notification for each device: texts, collapse ids, fates, ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aggregator.sinks.base import Fate, Limits, Verdict
from aggregator.testing import Harness

TEMPLATES = """
default_language = "en"
[types.letter]
collapse_id = "letters"
ttl = "1h"
badge = true
sound = "ping"
[types.letter.texts.en]
title = "Mail"
one = "{sender} wrote you a letter"
other = "{count} new letters"
[types.like.texts.en]
one = "a like"
other = "{count} likes"
"""
DOCS = Path(__file__).parents[2] / "docs"
PHONE = {"platform": "apns", "token": "aa" * 32, "device": "phone"}
TABLET = {"platform": "fcm", "token": "bbb", "device": "tablet", "app": "news", "registered": 7}


def devices_of(key, event):
    if key == "broken":
        raise ValueError(event)
    return {"bob": [PHONE], "nobody": []}.get(key)


def only(key):
    return []


class Gateway:
    """Keeps whom it was given; ``word`` may refuse."""

    limits = Limits()

    def __init__(self):
        self.sent = []
        self.word = lambda address: None

    def open(self):
        pass

    def write(self, items):
        verdicts = [self.word(item.address) or Verdict(Fate.WRITTEN) for item in items]
        self.sent += [(i.address, json.loads(i.document)) for i, v in zip(items, verdicts, strict=True)
                      if v.fate is Fate.WRITTEN]  # fmt: skip
        return verdicts

    def close(self):
        pass

    def where(self):
        return "here"

    @property
    def texts(self):
        return [payload["aps"]["alert"]["body"] for _, payload in self.sent]


@pytest.fixture
def path(tmp_path):
    (path := tmp_path / "templates.toml").write_text(TEMPLATES)
    return path


@pytest.fixture
def gateway():
    return Gateway()


@pytest.fixture
def route(path, gateway):
    with Harness(sink=gateway, correlate="/user", aggregate=f"push:{path}", size=3, age="30s") as route:
        yield route


def event(number, kind="letter", user="bob", devices=(PHONE,), **more):
    return {"user": user, "type": kind, "sender": f"Ann {number}", "devices": list(devices), **more}


def publish(route, *numbers, **options):
    for number in numbers:
        route.publish(event(number, **options), id=f"{options.get('user', 'bob')}{number}")


def test_several_events_are_one_notification(route, gateway):
    publish(route, 1, 2, 3)
    ((address, payload),) = gateway.sent
    assert payload == {
        "aps": {"alert": {"title": "Mail", "body": "3 new letters"}, "badge": 3, "sound": "ping"},
        "type": "letter",
        "count": 3,
    }
    assert (address.token, address.device, address.platform) == ("aa" * 32, "phone", "apns")
    assert address.notification.collapse_id == "letters"
    assert address.notification.expiration == int(route.clock.time()) + 3_600
    assert route.totals == {"written": 3}
    assert route.queue == []


def test_one_alone_is_told_after_its_time(route, gateway):
    publish(route, 1)
    assert gateway.sent == []
    route.advance("30s")
    assert gateway.texts == ["Ann 1 wrote you a letter"]


def test_users_do_not_mix(route, gateway):
    publish(route, 1, 2, user="bob")
    publish(route, 1, user="eve", devices=[{**PHONE, "device": "eve's"}])
    route.advance("30s")
    assert sorted(gateway.texts) == ["2 new letters", "Ann 1 wrote you a letter"]


def test_each_type_is_told_by_itself(route, gateway):
    publish(route, 1, 2)
    publish(route, 3, kind="like")
    assert sorted(gateway.texts) == ["2 new letters", "a like"]


def test_all_devices_of_the_last_event(route, gateway):
    publish(route, 1, 2)
    publish(route, 3, devices=[PHONE, TABLET])
    (_, first), (tablet, second) = gateway.sent
    assert first["aps"]["alert"]["body"] == "3 new letters"
    assert second == {
        "notification": {"title": "Mail", "body": "3 new letters"},
        "data": {"type": "letter", "count": "3"},
        "android": {"notification": {"sound": "ping"}},
    }
    assert (tablet.app, tablet.registered) == ("news", 7)


def test_the_same_event_twice_counts_once(route, gateway):
    route.publish(event(1), id="bob1")
    route.publish(event(1), id="bob1")
    route.publish(event(2), id="bob2")
    assert gateway.texts == ["2 new letters"]
    assert route.queue == []


def test_sent_again_it_has_the_same_id(route, gateway):
    words = [Verdict(Fate.RETRY, "ServiceUnavailable"), None]
    asked = []
    gateway.word = lambda address: (asked.append(address.apns_id), words.pop(0))[1]
    publish(route, 1, 2, 3)
    route.settle()
    assert len(asked) == 2
    assert len(set(asked)) == 1
    assert route.totals == {"written": 3}


def test_a_dead_token_is_no_dead_letter(route, gateway):
    gateway.word = lambda address: (
        Verdict(Fate.REFUSED, "Unregistered") if address.platform == "fcm" else None
    )
    publish(route, 1, 2, 3, devices=[PHONE, TABLET])
    assert gateway.texts == ["3 new letters"]
    assert route.totals == {"refused": 3}
    assert route.queue == []
    assert route.dead_letters == []


def test_who_has_no_device_is_told_nothing(route, gateway):
    publish(route, 1, 2, 3, devices=[])
    assert gateway.sent == []
    assert route.totals == {"refused": 3}
    assert route.dead_letters == []


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"type": "parcel"}, "unknown-type"),
        ({"devices": "phone"}, "bad-push"),
        ({"devices": ["phone"]}, "bad-push"),
        ({"devices": [{**PHONE, "platform": "pager"}]}, "bad-push"),
        ({"devices": [{**PHONE, "token": ""}]}, "bad-push"),
        ({"devices": [{**PHONE, "app": 7}]}, "bad-push"),
        ({"sender": None}, "bad-value"),
    ],
)
def test_what_is_wrong_is_a_dead_letter(route, gateway, wrong, reason):
    route.publish({**event(1), **wrong}, id="1")
    route.advance("30s")
    assert gateway.sent == []
    assert [letter.reason for letter in route.dead_letters] == [reason]


def test_own_function_for_devices(path, gateway):
    path.write_text(f'devices = "function:{__name__}:devices_of"\n{TEMPLATES}')
    with Harness(sink=gateway, correlate="/user", aggregate=f"push:{path}", size=2, age="30s") as route:
        publish(route, 1, 2, devices=[])
        publish(route, 1, 2, user="nobody")
        publish(route, 1, 2, user="broken")
        assert gateway.texts == ["2 new letters"]
        assert route.totals == {"written": 2, "refused": 2, "dead_lettered": 2}
        assert {letter.reason for letter in route.dead_letters} == {"aggregation-failed"}


@pytest.mark.parametrize("name", [f"{__name__}:only", f"{__name__}:nobody", "nowhere:at_all"])
def test_a_function_that_cannot_work_is_refused_at_the_start(path, name):
    path.write_text(f'devices = "function:{name}"\n{TEMPLATES}')
    with pytest.raises(Exception, match="aggregate: "):
        Harness(correlate="/user", aggregate=f"push:{path}")


def test_the_page_shows_the_example():
    page = (DOCS / "aggregation.md").read_text()
    assert f"```toml\n{(DOCS / 'examples' / 'push' / 'letters.toml').read_text()}```" in page


def test_the_example(gateway):
    aggregate = f"push:{DOCS / 'examples' / 'push' / 'letters.toml'}"
    with Harness(sink=gateway, correlate="/user", aggregate=aggregate, size=2) as route:
        publish(route, 1)
        publish(route, 2, language="ru")
        assert gateway.texts == ["2 новых письма"]
