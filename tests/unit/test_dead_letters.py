"""Dead letters without a server: the message, the way back, and the thread's manners."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime

import pytest
from kombu import Connection

from aggregator.testing.memory import MemoryDelivery
from consumers import transports
from consumers.dead_letters import DeadLetters, Refused, dead_letter, original

TARGET = {"queue": "q", "exchange": "", "routing_key": "q.dead", "frame_max": 131_072}


def refused(body=b"body", **delivery):
    return Refused(MemoryDelivery(body, **delivery), "bad-json", "why")


def headers_of(letter):
    return letter.properties["headers"]


@pytest.fixture(params=["memory", "sqlite"])
def broker(request, tmp_path):
    if request.param == "memory":
        return "memory://"
    transports.register()
    return f"sqlite-queue:///{tmp_path}/queue.db"


@pytest.fixture
def queue():
    return f"q-{uuid.uuid4().hex}"


def taken(broker, queue):
    with Connection(broker) as connection, connection.channel() as channel:
        found = []
        while message := channel.basic_get(queue, no_ack=True):
            found.append(message)
        return found


def test_the_body_is_the_original():
    body = b"\xff\x00 not text"
    letter = dead_letter(refused(body), **TARGET)
    assert letter.body == body
    assert (letter.exchange, letter.routing_key) == ("", "q.dead")


def test_what_is_unknown_is_absent():
    assert headers_of(dead_letter(Refused(MemoryDelivery(b""), "empty"), **TARGET)) == {
        "x-aggregator-reason": "empty",
        "x-aggregator-attempts": 0,
        "x-aggregator-exchange": "",
        "x-aggregator-routing-key": "",
        "x-aggregator-queue": "q",
        "x-aggregator-delivery-mode": 0,
    }


@pytest.mark.parametrize("mode", [None, 1, 2])
def test_it_is_persistent_and_the_original_mode_comes_back(mode):
    properties = {} if mode is None else {"delivery_mode": mode}
    letter = dead_letter(refused(properties=properties), **TARGET)
    assert letter.properties["delivery_mode"] == 2
    assert original(letter.properties).properties == properties


def test_it_cannot_expire_and_the_expiration_comes_back():
    letter = dead_letter(refused(properties={"expiration": "5", "delivery_mode": 2}), **TARGET)
    assert "expiration" not in letter.properties
    assert original(letter.properties).properties == {"expiration": "5", "delivery_mode": 2}


def test_headers_that_route_or_count_are_out_of_action():
    headers = {"CC": ["a"], "BCC": ["b"], "x-delivery-count": 15, "x-death": [{"count": 1}]}
    letter = dead_letter(refused(headers=headers), **TARGET)
    assert not headers_of(letter).keys() & {"CC", "BCC", "x-delivery-count"}
    assert headers_of(letter)["x-aggregator-cc"] == ["a"]
    assert headers_of(letter)["x-death"] == [{"count": 1}]
    assert original(letter.properties).properties["headers"] == {"x-death": [{"count": 1}]}


def test_a_second_refusal_replaces_the_first():
    first = dead_letter(Refused(MemoryDelivery(b""), "mapping", status=400), **TARGET)
    second = dead_letter(refused(headers=headers_of(first)), **TARGET)
    assert headers_of(second)["x-aggregator-reason"] == "bad-json"
    assert "x-aggregator-status" not in headers_of(second)


def test_properties_of_the_transport_are_not_taken_along():
    properties = {"delivery_tag": 1, "delivery_info": {}, "body_encoding": "base64", "type": "t"}
    assert dead_letter(refused(properties=properties), **TARGET).properties.keys() == {
        "type",
        "headers",
        "delivery_mode",
    }


class Unreadable(MemoryDelivery):
    """A message whose properties cannot be decoded."""

    @property
    def headers(self):
        raise ValueError("cut short")

    properties = headers


def test_unreadable_properties_do_not_keep_the_body():
    letter = dead_letter(Refused(Unreadable(b"body"), "bad-headers"), **TARGET)
    assert letter.body == b"body"
    assert headers_of(letter)["x-aggregator-reason"] == "bad-headers"


def test_the_plain_form_is_what_every_transport_takes():
    endless = []
    endless.append(endless)
    headers = {
        "moment": datetime(2025, 1, 1, tzinfo=UTC),
        "endless": endless,
        "n": 5,
        "lone": "\ud800",
        "huge": 2**90,
    }
    letter = dead_letter(
        refused(headers=headers, properties={"message_id": "x" * 400, "priority": 999, "timestamp": 7}),
        **TARGET,
        plain=True,
    )
    kept = headers_of(letter)
    assert kept["n"] == 5
    assert kept["lone"] == "?"
    assert kept["huge"] == str(2**90)
    assert {type(value) for value in kept.values()} <= {str, int, float, bool}
    assert letter.properties["message_id"] == "x" * 255
    assert letter.properties["timestamp"] == 7
    assert "priority" not in letter.properties


def test_published_then_reported_in_full(broker, queue):
    reported = []
    letters = DeadLetters(broker, queue, on_published=reported.extend)
    letters.start()
    sent = [refused(b"%d" % number) for number in range(1_200)]

    letters.submit(sent)
    assert letters.drain(30)
    assert letters.stop(5)

    assert reported == sent
    assert [bytes(message.body) for message in taken(broker, f"{queue}.dead")] == [
        one.delivery.body for one in sent
    ]


def test_what_cannot_be_stored_goes_out_in_a_plain_form(tmp_path):
    transports.register()
    broker = f"sqlite-queue:///{tmp_path}/queue.db"
    reported = []
    letters = DeadLetters(broker, "q", on_published=reported.extend)
    letters.start()
    letters.submit([refused(headers={"x": object()})])
    assert letters.drain(30)
    letters.stop(5)
    (message,) = taken(broker, "q.dead")
    assert message.headers["x"].startswith("<object object")
    assert len(reported) == 1


def test_an_error_of_the_receiver_does_not_end_the_thread(queue):
    seen = []

    def receive(batch):
        seen.append(batch)
        raise RuntimeError("the receiver's own fault")

    letters = DeadLetters("memory://", queue, on_published=receive)
    letters.start()
    for number in range(2):
        letters.submit([refused(b"%d" % number)])
        assert letters.drain(30)
    assert letters.alive
    assert letters.stop(5)
    assert len(seen) == 2


def test_without_a_broker_submit_returns_and_stop_is_prompt(queue):
    letters = DeadLetters("amqp://guest:guest@127.0.0.1:1//", queue, on_published=pytest.fail)
    letters._thread.start()  # as if the broker had gone since the start
    letters.submit([refused()])
    assert not letters.drain(0.3)
    stopper = threading.Thread(target=letters.stop, args=(0.1,))
    stopper.start()
    stopper.join(20)
    assert not stopper.is_alive()
    assert not letters.alive
    assert letters.pending == 1


def test_stop_before_start_is_harmless(queue):
    assert DeadLetters("memory://", queue, on_published=pytest.fail).stop(0)
