"""Deliveries as transports bring them: bytes as they came, properties by AMQP's names."""

from __future__ import annotations

import gzip

import amqp
import pytest
from kombu import Connection

from aggregator.testing.memory import MemoryLink
from consumers.delivery import AmqpDelivery, KombuDelivery, undecoded

LINK = MemoryLink()


def raw(body=b"{}", **properties):
    message = amqp.Message(body, **properties)
    message.delivery_info = {
        "delivery_tag": 7,
        "redelivered": True,
        "exchange": "ex",
        "routing_key": "a.b",
        "consumer_tag": "c",
    }
    return message


def test_a_message_of_amqp():
    message = raw(b"\x00\xff", content_type="x/y", message_id="m", application_headers={"a": 1})
    delivery = AmqpDelivery(message, LINK)
    assert (delivery.body, delivery.tag, delivery.redelivered) == (b"\x00\xff", 7, True)
    assert (delivery.exchange, delivery.routing_key) == ("ex", "a.b")
    assert delivery.headers == {"a": 1}
    assert delivery.properties == {"content_type": "x/y", "message_id": "m"}
    assert delivery.link is LINK
    assert not hasattr(delivery, "__dict__")


@pytest.mark.parametrize("body", [b"ab", "ab", bytearray(b"ab"), memoryview(b"ab")])
def test_the_body_is_bytes_whatever_the_client_gives(body):
    message = raw()
    message.body = body
    assert AmqpDelivery(message, LINK).body == b"ab"


def test_a_message_without_anything():
    delivery = AmqpDelivery(raw(b""), LINK)
    assert (delivery.body, delivery.headers, delivery.properties) == (b"", {}, {})


@pytest.fixture
def channel():
    with Connection("memory://") as connection, connection.channel() as made:
        made.Message = undecoded(made.Message)
        made.queue_declare(queue="deliveries")
        made.queue_purge("deliveries")
        yield made


def sent(channel, body, **more):
    properties = {"message_id": "m", "correlation_id": "c", **more.pop("properties", {})}
    message = channel.prepare_message(body, properties=properties, **more)
    channel.basic_publish(message, "", "deliveries")
    return channel.basic_get("deliveries")


def test_a_message_of_a_virtual_transport(channel):
    got = sent(channel, b"\x00\xff", content_type="x/y", content_encoding="binary", headers={"a": 1})
    delivery = KombuDelivery(got, LINK)
    assert delivery.body == b"\x00\xff"
    assert delivery.headers == {"a": 1}
    assert delivery.routing_key == "deliveries"
    assert delivery.exchange == ""
    assert not delivery.redelivered
    assert delivery.tag == got.delivery_tag
    assert delivery.properties["message_id"] == "m"
    assert delivery.properties["correlation_id"] == "c"
    assert delivery.properties["content_type"] == "x/y"
    assert {"delivery_tag", "delivery_info", "body_encoding"}.isdisjoint(delivery.properties)


def test_nothing_is_inflated_at_receipt(channel):
    packed = gzip.compress(b"x" * 1_000_000)
    got = sent(channel, packed, headers={"compression": "application/x-gzip"})
    delivery = KombuDelivery(got, LINK)
    assert delivery.body == packed
    assert delivery.headers["compression"] == "application/x-gzip"
    # given back it is what it was
    assert got.serializable()["headers"] == {"compression": "application/x-gzip"}


@pytest.mark.parametrize(("body", "wanted"), [(None, b""), ("text", b"text"), (bytearray(b"ab"), b"ab")])
def test_the_body_of_a_virtual_transport_is_bytes(channel, body, wanted):
    got = sent(channel, b"any")
    got._decoded_cache = None
    got.body = body
    assert KombuDelivery(got, LINK).body == wanted
