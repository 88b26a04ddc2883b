"""Push messages from the queue to the last word on each recipient."""

from __future__ import annotations

import orjson
import pytest

from aggregator.errors import ConfigurationErrors, SinkUnavailableError
from aggregator.sinks.base import Fate, Verdict
from aggregator.testing import Harness
from aggregator.testing.sink import MemorySink

GONE = Verdict(Fate.REFUSED, "Unregistered", status=410)
BUSY = Verdict(Fate.RETRY, "TooManyRequests")
WRONG = Verdict(Fate.DEAD_LETTER, "BadTopic", "wrong")
OK = Verdict(Fate.WRITTEN)


def message(*devices, campaign="c1", **more):
    recipients = [[device, f"token-{device}", 5] for device in devices]
    return {
        "campaign": campaign,
        "platform": "fcm",
        "notification": {"payload": {"text": "hello"}},
        "recipients": recipients,
        **more,
    }


class Gateway(MemorySink):
    """Answers by token: the first word of a list each time, the last for ever."""

    def __init__(self, **words):
        super().__init__()
        self.words = {f"token-{device}": list(said) for device, said in words.items()}
        self.sent = []
        self.decide = self.answer

    def answer(self, items):
        verdicts = []
        for item in items:
            self.sent.append(item.address.token)
            said = self.words.get(item.address.token, [OK])
            verdicts.append(said.pop(0) if len(said) > 1 else said[0])
        return verdicts


@pytest.fixture
def gateway():
    return Gateway()


def route(gateway, **settings):
    return Harness(**{"aggregate": "push", "size": 1, "sink": gateway, "breaker_window": 0, **settings})


def test_each_recipient_is_an_item_and_the_message_is_acked_after_all(gateway):
    seen = []
    gateway.before = seen.extend
    with route(gateway) as pushed:
        pushed.publish(message("a", 7, app="news"), id="m")
        assert pushed.queue == []
        assert pushed.totals == {"written": 1}
        assert [batch.fates for batch in pushed.batches] == [{"written": 1}]
    assert [(item.address.device, item.address.token, item.address.app) for item in seen] == [
        ("a", "token-a", "news"),
        ("7", "token-7", "news"),
    ]
    assert seen[0].document is seen[1].document
    assert (seen[0].id, seen[0].address.index, seen[1].address.index) == ("c1/a", 0, 1)
    assert (seen[0].json(), seen[0].address.registered) == ({"text": "hello"}, 5)


def test_messages_of_one_group_share_a_request(gateway):
    with route(gateway, size=3) as pushed:
        for device in "abc":
            pushed.publish({**message(device), "recipients": [[device, f"token-{device}"]]})
    assert gateway.requests == [["c1/a", "c1/b", "c1/c"]]


def test_requests_keep_their_bound(gateway):
    with route(gateway, request_items=4) as pushed:
        pushed.publish(message(*range(10)))
    assert [len(ids) for ids in gateway.requests] == [4, 4, 2]


def test_those_that_are_put_off_go_again_and_no_others(gateway):
    gateway.words = {"token-b": [BUSY, BUSY, OK]}
    with route(gateway) as pushed:
        pushed.publish(message("a", "b", "c"))
        assert len(pushed.queue) == 1
        pushed.settle()
        assert pushed.totals == {"written": 1}
    assert gateway.sent == ["token-a", "token-b", "token-c", "token-b", "token-b"]


def test_a_dead_token_ends_its_message_and_nobody_looks_into_it(gateway):
    gateway.words = {"token-b": [GONE]}
    with route(gateway) as pushed:
        pushed.publish(message("a", "b"))
        assert pushed.totals == {"refused": 1}
        assert (pushed.queue, pushed.dead_letters) == ([], [])


def test_refusals_never_stop_the_route(gateway):
    gateway.words = {f"token-{n}": [GONE] for n in range(500)}
    with route(gateway, breaker_window=200) as pushed:
        for n in range(500):
            pushed.publish(message(n))
        assert (pushed.state, pushed.totals) == ("running", {"refused": 500})


def test_one_wrong_recipient_in_each_message_does_not_stop_the_route(gateway):
    gateway.words = {f"token-{n}0": [WRONG] for n in range(300)}
    with route(gateway, breaker_window=200) as pushed:
        for n in range(300):
            pushed.publish(message(*(f"{n}{k}" for k in range(5))))
        assert (pushed.state, pushed.totals) == ("running", {"dead_lettered": 300})


def test_a_route_where_nothing_is_right_stops(gateway):
    gateway.words = {f"token-{n}": [WRONG] for n in range(300)}
    with route(gateway, breaker_window=200) as pushed:
        for n in range(300):
            pushed.publish(message(n))
        assert pushed.state == "stopped"


def test_the_worst_word_decides_once_all_have_one(gateway):
    gateway.words = {"token-a": [WRONG], "token-b": [GONE], "token-c": [BUSY, OK]}
    with route(gateway) as pushed:
        pushed.publish(message("a", "b", "c"))
        assert pushed.dead_letters == []
        pushed.settle()
        assert pushed.totals == {"dead_lettered": 1}
        assert [letter.reason for letter in pushed.dead_letters] == ["BadTopic"]


def test_a_message_that_is_none_is_refused(gateway):
    with route(gateway, size=2) as pushed:
        pushed.publish({"campaign": "c1"})
        pushed.publish(message("a"))
        assert pushed.totals == {"written": 1, "dead_lettered": 1}
        assert [letter.reason for letter in pushed.dead_letters] == ["bad-push"]
        pushed.publish(b"{no json", content_type="application/json")
        pushed.publish(message("b"))
        assert pushed.dead_letters[-1].reason == "bad-json"


def test_of_a_recipient_that_is_none_the_others_are_sent(gateway):
    with route(gateway) as pushed:
        pushed.publish({**message("a", "b"), "recipients": [["a", "token-a"], ["x"], ["b", "token-b", -1]]})
        assert gateway.sent == ["token-a"]
        assert pushed.totals == {"dead_lettered": 1}
        assert pushed.dead_letters[0].reason == "bad-push"
        pushed.publish({**message("a"), "recipients": [[]]})
        assert pushed.totals == {"dead_lettered": 2}


def test_a_compressed_message(gateway):
    import gzip

    body = gzip.compress(orjson.dumps(message("a")))
    with route(gateway) as pushed:
        pushed.publish(body, content_type="application/json", content_encoding="gzip")
    assert gateway.sent == ["token-a"]


def test_an_outage_gives_all_back_and_all_are_sent_after_it(gateway):
    with route(gateway, ack_deadline="1m") as pushed:
        pushed.sink.fail(SinkUnavailableError("away"), times=None)
        pushed.publish(message("a", "b"))
        pushed.advance("1m")
        assert (pushed.state, gateway.sent, len(pushed.queue)) == ("waiting", [], 1)
        pushed.sink.heal()
        pushed.settle()
        assert (gateway.sent, pushed.queue) == (["token-a", "token-b"], [])


# ── windows ──


def test_what_has_expired_is_acked_and_not_sent(gateway):
    with route(gateway) as pushed:
        now = pushed.clock.time()
        pushed.publish(message("a", "b", expires=now - 1))
        assert (gateway.sent, pushed.totals, pushed.queue) == ([], {"expired": 1}, [])


def test_what_expires_while_it_waits_for_its_retry_is_not_sent(gateway):
    gateway.words = {"token-b": [BUSY]}
    with route(gateway, ack_deadline="1h") as pushed:
        pushed.publish(message("a", "b", expires=pushed.clock.time() + 20))
        pushed.advance(60)
        assert (pushed.totals, pushed.queue) == ({"expired": 1}, [])
    assert gateway.sent.count("token-a") == 1


def test_a_source_that_cannot_wait_refuses_what_is_too_early(gateway):
    with route(gateway) as pushed:
        pushed.publish(message("a", not_before=pushed.clock.time() + 100))
        assert gateway.sent == []
        assert [letter.reason for letter in pushed.dead_letters] == ["outside-window"]


# ── settings ──


def test_a_task_is_a_bulk_already():
    harness = Harness(
        broker="tarantool://u:p@h1:1,h2:2/", queue="apns, fcm", aggregate="push", sink=MemorySink()
    )
    settings = harness.route
    assert (settings.size, settings.request_items, settings.workers, settings.tubes) == (
        1,
        1000,
        2,
        ("apns", "fcm"),
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"aggregate": "list"}, "aggregate"),
        ({"dead_letter": "dead"}, "dead_letter"),
        ({"queue": "a,,b"}, "queue"),
        ({"queue": "a,a"}, "queue"),
    ],
)
def test_what_no_tube_can_do_is_refused(changes, field):
    with pytest.raises(ConfigurationErrors) as caught:
        Harness(**{"broker": "tarantool://h:1/", "queue": "apns", "aggregate": "push", **changes})
    assert [fault.field for fault in caught.value.faults] == [field]
