"""The batched transport beside what streams show: its messages, and consumers that do as they please."""

from __future__ import annotations

import ssl
from functools import partial

import amqp
import pytest
from amqp import spec
from amqp.basic_message import Message as AmqpMessage
from kombu import Connection, Consumer, Queue
from kombu.compression import compress
from kombu.exceptions import ContentDisallowed, DecodeError, MessageStateError
from kombu.message import Message
from kombu.transport import pyamqp

from aggregator.errors import MessageRefusedError
from consumers.brokers import broker_fault
from consumers.connecting import Broker
from consumers.delivery import AmqpDelivery, BatchedDelivery
from consumers.transports import amqp_batched, register
from tests.amqp_streams import FRAME_MAX, HEARTBEAT, Client, deliver, frame, method


def raw(**properties):
    return AmqpMessage(**properties)._serialize_properties()


def client(*frames, **options):
    return Client(amqp_batched.Connection, [b"".join(frames)], **options)


def received(*frames, on=None, **options):
    """Return what the consumer ``c`` of channel 1 got."""
    made = client(*frames, **options)
    got = []
    (on or (lambda each: each))(made.connection.channels[1]).callbacks["c"] = got.append
    made.run()
    return got


def one(body=b"body", **properties):
    return received(*deliver(body=body, properties=raw(**properties), redelivered=True))[0]


# ── messages ──


def test_a_message_is_kombus():
    message = one(b'{"a": 1}', content_type="application/json", content_encoding="utf-8", message_id="m")
    assert isinstance(message, Message)
    assert message.body == '{"a": 1}'
    assert message.payload == message.decode() == {"a": 1}
    assert message.delivery_info["redelivered"] is True
    assert message.properties["message_id"] == "m"
    assert message.headers == {}
    assert message.headers is message.headers
    assert "'state': 'RECEIVED'" in repr(message)
    with pytest.raises(AttributeError):
        _ = message.nothing
    message.headers = {"b": 2}
    message.body = "other"
    assert (message.headers, message.body) == ({"b": 2}, "other")


def test_what_is_not_accepted_is_not_decoded():
    message = one(b"\x80", content_type="application/x-python-serialize", content_encoding="binary")
    message.accept = {"application/json"}
    with pytest.raises(ContentDisallowed):
        message.decode()


def test_without_auto_decode_the_body_is_bytes():
    def off(channel):
        channel.auto_decode = False
        return channel

    (message,) = received(*deliver(body=b"a", properties=raw(content_encoding="utf-8")), on=off)
    assert message.body == b"a"


@pytest.mark.parametrize("how", ["ack", "reject", "requeue"])
def test_a_message_is_settled_once(how):
    made = client(*deliver(tag=7))
    got = []
    made.connection.channels[1].callbacks["c"] = got.append
    made.run()
    (message,) = got
    assert not message.acknowledged
    getattr(message, how)()
    assert message.acknowledged
    assert (
        made.socket.sent
        == {
            "ack": method(1, spec.Basic.Ack, "Lb", 7, False),
            "reject": method(1, spec.Basic.Reject, "Lb", 7, False),
            "requeue": method(1, spec.Basic.Reject, "Lb", 7, True),
        }[how]
    )
    for again in (message.ack, message.reject, message.requeue):
        with pytest.raises(MessageStateError):
            again()


def test_an_ack_for_all_before_it_and_errors_that_are_logged():
    made = client(*deliver(tag=7), *deliver(tag=8))
    got = []
    made.connection.channels[1].callbacks["c"] = got.append
    made.run()
    got[1].ack(multiple=True)
    assert made.socket.sent == method(1, spec.Basic.Ack, "Lb", 8, True)
    said = []
    logger = type("Logger", (), {"critical": lambda _self, *words, **_more: said.append(words)})()
    got[1].reject_log_error(logger, (MessageStateError,))
    got[1].ack_log_error(logger, (MessageStateError,))
    assert len(said) == 2
    got[0].channel = None
    with pytest.raises(MessageStateError):
        got[0].ack()


def test_many_acks_are_one_write_of_the_same_frames():
    made = client(*deliver(tag=7))
    sent = made.connection.bytes_sent
    made.connection.channels[1].ack_many([7, 2**63])
    assert made.socket.sent == b"".join(method(1, spec.Basic.Ack, "Lb", tag, False) for tag in (7, 2**63))
    assert made.connection.bytes_sent == sent + 2


def test_a_consumer_without_acks_acks_nothing():
    made = client(*deliver())
    got = []
    channel = made.connection.channels[1]
    channel.callbacks["c"] = got.append
    channel.no_ack_consumers.add("c")
    made.run()
    got[0].ack()
    assert not made.socket.sent


def test_a_compressed_body_is_inflated_when_it_is_asked_for():
    packed, method_ = compress(b"x" * 1000, "zlib")
    message = one(packed, application_headers={"compression": method_})
    assert message._raw == packed
    assert message.errors == []
    assert message.body == b"x" * 1000
    broken = one(b"no zlib", application_headers={"compression": method_})
    assert len(broken.errors) == 1
    named = one(b"a", application_headers={"x": "compression"})
    assert (named.body, named.errors) == (b"a", [])


def test_a_program_of_kombus():
    """A consumer with callbacks gets decoded bodies; what cannot be decoded goes where kombu sends it."""
    broken = b"\x20\x00\x00\x00\x00\x0e\x0bcompressionaZ"
    good = raw(content_type="application/json", content_encoding="utf-8")
    frames = [*deliver(tag=1, body=b"[1]", properties=good), *deliver(tag=2, properties=broken),
              *deliver(tag=3, body=b"[3]", properties=good)]  # fmt: skip
    made = client(*frames)
    got, bad = [], []
    consumer = Consumer(
        made.connection.channels[1],
        [],
        callbacks=[lambda body, message: got.append((body, message.delivery_tag))],
        on_decode_error=lambda message, exc: bad.append((message.delivery_tag, type(exc))),
        accept=["json"],
    )
    made.connection.channels[1].callbacks["c"] = consumer._receive_callback
    made.run()
    assert got == [([1], 1), ([3], 3)]
    assert bad == [(2, DecodeError)]


def got(properties, connection_class=amqp_batched.Connection, body=b"b"):
    """Return what ``basic_get`` brought, and the channel."""
    answer = method(1, spec.Basic.GetOk, "Lbssl", 4, True, "x", "k", 9)
    # something else in the same read, before it and behind it
    stream = b"".join(
        [*deliver(tag=3), answer, *deliver(properties=properties, body=body)[1:], *deliver(tag=5)]
    )
    made = Client(connection_class, [stream])
    channel = made.connection.channels[1]
    message = channel.basic_get("q")
    made.run()
    assert [event[2] for event in made.events] == [3, 5]
    return message, channel


@pytest.mark.parametrize("properties", [{}, {"content_type": "text/plain", "application_headers": {"a": 1}}])
@pytest.mark.parametrize("body", [b"", b"b"])
def test_basic_get_brings_what_the_standard_transport_does(properties, body):
    theirs, ours = (
        got(raw(**properties), each, body) for each in (pyamqp.Connection, amqp_batched.Connection)
    )
    for name in ("properties", "delivery_info", "delivery_tag", "body"):
        assert getattr(ours[0], name) == getattr(theirs[0], name)
    looks = [Client.look(channel.message_to_python(message)) for message, channel in (theirs, ours)]
    assert looks[0] == looks[1]
    delivery = BatchedDelivery(LINK, ours[0].arrival)
    assert (delivery.tag, delivery.redelivered, delivery.exchange, delivery.routing_key) == (
        4,
        True,
        "x",
        "k",
    )
    assert delivery.headers == properties.get("application_headers", {})


def test_a_got_message_that_cannot_be_decoded_is_its_own_fault_alone():
    message, channel = got(b"\x20\x00\x00\x00\x00\x03\x01aZ")
    with pytest.raises(DecodeError):
        _ = channel.message_to_python(message).headers
    with pytest.raises(MessageRefusedError):
        _ = BatchedDelivery(LINK, message.arrival).headers


# ── consumers ──


def test_it_stops_behind_each_other_frame():
    made = client(*deliver(tag=1), method(1, spec.Basic.Ack, "Lb", 1, False), *deliver(tag=2), HEARTBEAT)
    seen = []
    while made.connection.pending() or not made.socket.played:
        made.connection.blocking_read(1)
        seen.append([event[0] for event in made.events])
        made.events.clear()
    assert seen == [["delivery"], ["basic_ack"], ["delivery"], []]
    assert not made.connection.pending()
    with pytest.raises(TimeoutError):
        made.connection.blocking_read(1)


def test_an_answer_is_waited_for_over_deliveries():
    answer = method(1, spec.Basic.ConsumeOk, "s", "new")
    # the first delivery of the new consumer is in the same read as the answer
    made = client(*deliver(tag=1), answer, *deliver(tag=2, consumer="new"))
    channel = made.connection.channels[1]
    channel.basic_consume("q", "new", callback=lambda raw: made.events.append(("new", raw.delivery_tag)))
    made.run()
    assert [event[0] for event in made.events] == ["delivery", "new"]


def test_a_consumer_that_raises_costs_its_message_alone():
    made = client(*deliver(tag=1), *deliver(tag=2), *deliver(tag=3))
    got = []

    def callback(message):
        got.append(message.delivery_tag)
        if len(got) == 1:
            raise ValueError

    made.connection.channels[1].callbacks["c"] = callback
    with pytest.raises(ValueError):
        made.connection.drain_events(timeout=1)
    assert made.connection.pending()
    made.connection.drain_events(timeout=1)
    assert got == [1, 2, 3]


def test_a_consumer_that_closes_its_channel_sees_no_more():
    made = client(*deliver(tag=1), *deliver(tag=2), *deliver(2, tag=3), method(1, spec.Channel.CloseOk))
    got = []

    def callback(message):
        got.append(message.delivery_tag)
        message.channel.close()

    made.connection.channels[1].callbacks["c"] = callback
    made.run()
    assert got == [1]
    assert [event[2] for event in made.events] == [3]


def test_a_consumer_that_drops_the_connection_sees_no_more():
    made = client(*deliver(tag=1), *deliver(tag=2))
    got = []

    def callback(message):
        got.append(message.delivery_tag)
        made.connection.collect()

    made.connection.channels[1].callbacks["c"] = callback
    made.connection.drain_events(timeout=1)
    assert got == [1]
    assert len(made.connection._input) == 0
    assert not made.connection.connected


def test_what_came_before_the_end_is_handed_out():
    made = client(*deliver(tag=1), *deliver(tag=2)[:2], closes=True)
    made.run()
    assert [event[0] for event in made.events] == ["delivery", "error"]
    assert made.events[-1][1] == "OSError"
    assert not made.connection.connected


@pytest.mark.parametrize(
    "wait",
    [BlockingIOError(11, "again"), InterruptedError(4, "eintr"), ssl.SSLWantReadError(2, "read"),
     ssl.SSLWantWriteError(3, "write"), ssl.SSLError("The read operation timed out")],
    ids=lambda exc: type(exc).__name__,
)  # fmt: skip
def test_a_read_that_has_to_wait_is_a_timeout(wait):
    made = client(*deliver())

    def recv(_size):
        raise wait

    made.connection.sock.recv = recv
    with pytest.raises(TimeoutError):
        made.connection.drain_events()
    assert made.connection.connected


def test_a_read_that_fails_loses_the_connection():
    made = client(*deliver())

    def recv(_size):
        raise ConnectionResetError(104, "reset")

    made.connection.sock.recv = recv
    with pytest.raises(ConnectionResetError):
        made.connection.drain_events(timeout=1)
    assert not made.connection.connected
    made.connection.transport.sock = None
    with pytest.raises(amqp.RecoverableConnectionError):
        made.connection.drain_events()


@pytest.mark.parametrize("at", [0, 1, 2], ids=["method", "header", "body"])
def test_a_frame_beyond_all_is_an_error_of_the_protocol(at):
    frames = deliver(tag=2)
    frames[at] = frames[at][:3] + (2 * FRAME_MAX + 1).to_bytes(4, "big") + frames[at][7:]
    made = client(*deliver(tag=1), *frames)
    made.run()
    assert [event[:2] for event in made.events[1:]] == [("error", "FrameError")]
    # where the next frame begins is not known any more
    with pytest.raises(amqp.exceptions.FrameError):
        made.connection.drain_events(timeout=1)


def test_a_body_is_not_waited_for_beyond_a_frame():
    frames = deliver(tag=2, body=b"x" * (2 * FRAME_MAX + 1))
    made = client(*deliver(tag=1), *frames[:2], frames[2][:20])
    made.run()
    assert [event[:2] for event in made.events[1:]] == [("error", "FrameError")]


def test_headers_that_the_broker_made_longer_than_a_frame():
    headers = {"x": "y" * (FRAME_MAX + 100)}
    (message,) = received(*deliver(properties=raw(application_headers=headers)))
    assert message.headers == headers


def test_heartbeats_count_as_life():
    made = client(HEARTBEAT, *deliver())
    driver = made.connection
    driver.heartbeat = 10
    assert driver.blocking_read(1) is False
    assert driver.bytes_recv == 1
    driver.blocking_read(1)
    assert driver.bytes_recv == 4
    driver.heartbeat_tick()
    sent = driver.bytes_sent
    driver.send_heartbeat()
    assert driver.bytes_sent == sent + 1
    assert made.socket.sent == HEARTBEAT


def test_a_program_makes_its_own_objects():
    def own(channel):
        channel.make_delivery = lambda arrival: arrival[2:4]
        return channel

    assert received(*deliver(tag=5, redelivered=True), on=own) == [(5, 1)]


def alike(*tags, **options):
    return [frame for tag in tags for frame in deliver(tag=tag, **options)]


@pytest.mark.parametrize(
    ("frames", "together", "alone"),
    [
        (alike(1, 2, 3), [[1, 2, 3]], []),
        (alike(1), [], [1]),
        ([*alike(1, 2), *alike(3, consumer="d")], [], [1, 2, 3]),
        ([*alike(1, 2), *alike(3, channel=2)], [], [1, 2, 3]),
        ([*alike(1, 2), HEARTBEAT, *alike(3, 4)], [[1, 2], [3, 4]], []),
    ],
)
def test_a_consumer_may_take_all_of_a_read_together(frames, together, alone):
    """Where it is not for it alone, each goes to its own callback."""
    made = client(*frames)
    taken = []
    made.connection.channels[1].on_deliveries = lambda found: taken.append([m.delivery_tag for m in found])
    made.run()
    assert taken == together
    assert [event[2] for event in made.events if event[0] == "delivery"] == alone


def test_what_comes_for_a_cancelled_consumer_is_not_taken_together():
    made = client(*alike(1, 2))
    taken = []
    channel = made.connection.channels[1]
    channel.on_deliveries = taken.append
    del channel.callbacks["c"]
    made.run()
    assert taken == []


@pytest.mark.parametrize("scheme", ["amqp-batched", "amqps-batched"])
def test_the_schemes(scheme):
    register()
    connection = Connection(f"{scheme}://u:p@host/v")
    assert connection.transport.driver_type == "amqp"
    assert bool(connection.ssl) == (scheme == "amqps-batched")
    assert connection.transport.default_connection_params["port"] == (5671 if connection.ssl else 5672)
    assert broker_fault(f"{scheme}://host//") is None
    broker = Broker(f"{scheme}://host//")
    assert broker.amqp
    assert bool(broker.tls) == bool(connection.ssl)
    assert Queue("q").bind(client().connection.channels[1]).name == "q"


# ── deliveries of the service ──

FULL = {
    "content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2, "priority": 3,
    "correlation_id": "c", "reply_to": "r", "expiration": "60000", "message_id": "m\u00fc",
    "timestamp": 1_700_000_000, "type": "t", "user_id": "guest", "app_id": "a", "cluster_id": "k",
}  # fmt: skip
LINK = object()


def pair(properties, **options):
    """Return the delivery that each transport makes of the same frames."""
    stream = b"".join(deliver(properties=properties, **options))
    made = []
    for connection_class in (pyamqp.Connection, amqp_batched.Connection):
        listening = Client(connection_class, [stream])
        channel = listening.connection.channels[1]
        channel.auto_decode = False
        if connection_class is amqp_batched.Connection:
            channel.make_delivery = partial(BatchedDelivery, LINK)
            channel.callbacks["c"] = made.append
        else:
            channel.callbacks["c"] = lambda raw: made.append(AmqpDelivery(raw, LINK))
        listening.run()
    return made


@pytest.mark.parametrize("headers", [None, {}, {"a": 1, "x-delivery-count": 3}])
@pytest.mark.parametrize("names", [(), ("message_id",), ("content_type", "delivery_mode"), tuple(FULL)])
def test_a_delivery_says_what_the_standard_transports_does(names, headers):
    properties = {name: FULL[name] for name in names}
    if headers is not None:
        properties["application_headers"] = headers
    theirs, ours = pair(raw(**properties), tag=9, redelivered=True, body=b"\x00{}", route=("x", "k\u00fc"))
    for name in ("body", "tag", "redelivered", "link", "headers", "properties", "exchange", "routing_key"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in (*FULL, "application_headers", "unknown"):
        assert ours.basic_property(name) == theirs.basic_property(name)
    for name in ("a", "x-delivery-count", "b", "m\u00fc", "\ud800"):
        assert ours.header(name) == theirs.header(name)

    assert ours.declared() == theirs.declared()


SAID = {"b": "x", "a": 1, "long": 2**40, "t": {"n": [1, None, True, 1.5]}, "none": None}
ADDED = {"x-delivery-count": 3, "x-death": [{"count": 1}]}


def as_sent_again(headers):
    """Return the properties as RabbitMQ sends them after a return: its own headers added, all sorted."""
    return raw(application_headers=dict(sorted({**headers, **ADDED}.items())))


@pytest.mark.parametrize("headers", [{}, SAID, {"x-own": 1}, {"a": "b" * 300}])
def test_copies_of_a_message_say_the_same(headers):
    first, again = (pair(each)[1] for each in (raw(application_headers=headers), as_sent_again(headers)))
    assert first.said() == again.said()
    assert bool(first.said()) == any(not name.startswith("x-") for name in headers)


def test_one_number_has_two_names_on_the_wire():
    ours, rabbitmqs = (
        b"\x20\x00\x00\x00\x00\x0b\x01n" + kind + (5).to_bytes(8, "big") for kind in (b"L", b"l")
    )
    assert pair(ours)[1].said() == pair(rabbitmqs)[1].said()


@pytest.mark.parametrize("other", [{"a": 2}, {"a": "1"}, {"b": 1}, {"a": 1, "b": 1}, {}])
def test_what_says_something_else_is_another_message(other):
    (one, two) = (pair(raw(application_headers=headers))[1] for headers in ({"a": 1}, other))
    assert one.said() != two.said()


@pytest.mark.parametrize("table", [b"\x00\x00\x00\x03\x01aZ", b"\x00\x00\x00\x09\x01aI\x00\x00\x00\x01"])
def test_a_table_that_ends_somewhere_else_refuses_its_message(table):
    delivery = BatchedDelivery(LINK, (1, b"c", 1, 0, b"\x00\x00", b"\x20\x00" + table, b"{}"))
    with pytest.raises(MessageRefusedError):
        delivery.said()


def test_a_header_whose_name_is_no_text():
    """py-amqp makes bytes of it: neither transport refuses a message for that."""
    table = b"\x02\xff\xfeI\0\0\0\1"
    for delivery in pair(b"\x20\x00" + len(table).to_bytes(4, "big") + table):
        assert delivery.said()
        assert delivery.headers == {b"\xff\xfe": 1}


def test_a_header_that_cannot_be_there_is_not_looked_for():
    # py-amqp makes no delivery of it
    (delivery,) = pair(b"\x20\x00\x00\x00\x00\x03\x01aZ")
    assert delivery.header("x-delivery-count") is None
    with pytest.raises(MessageRefusedError) as refused:
        delivery.header("a")
    assert refused.value.reason == "bad-properties"
    assert "FrameSyntaxError" in refused.value.detail


def test_properties_are_read_around_headers_that_cannot_be():
    broken = b"\xa0\x80\x01j\x00\x00\x00\x03\x01aZ\x02id"
    made = client(*deliver(properties=broken))
    got = []
    channel = made.connection.channels[1]
    channel.make_delivery = partial(BatchedDelivery, LINK)
    channel.callbacks["c"] = got.append
    made.run()
    (delivery,) = got
    assert delivery.basic_property("message_id") == "id"
    assert delivery.properties == {"content_type": "j", "message_id": "id"}
    with pytest.raises(MessageRefusedError):
        _ = delivery.headers


def test_a_routing_key_that_is_no_text():
    payload = deliver(route=("x", "kk"))[0].replace(b"kk", b"k\xff")
    made = client(payload, *deliver()[1:])
    got = []
    channel = made.connection.channels[1]
    channel.make_delivery = partial(BatchedDelivery, LINK)
    channel.callbacks["c"] = got.append
    made.run()
    assert (got[0].exchange, got[0].routing_key) == ("x", "k\\xff")


def test_frames_alone_make_no_event():
    assert client(frame(8, 0, b"")).run() == []
