"""The publisher without a server: transports that store at once, frames, and what cannot be reached."""

from __future__ import annotations

import socket
import uuid
from contextlib import suppress
from struct import unpack_from
from threading import Thread

import amqp
import pytest
from amqp.serialization import decode_properties_basic
from kombu import Connection

from aggregator.errors import ConfigurationError, PublisherUnavailableError
from consumers import transports
from consumers.publish_frames import FrameEncoder, UnencodableError, encode_properties
from consumers.publisher import Outgoing, Publisher

PROPERTIES = {
    "content_type": "text/plain",
    "content_encoding": "utf-8",
    "headers": {"a": 1, "b": ["x", {"y": None}]},
    "delivery_mode": 2,
    "priority": 0,
    "correlation_id": "ü",
    "reply_to": "r",
    "expiration": "1",
    "message_id": "m",
    "timestamp": 1_700_000_000,
    "type": "t",
    "user_id": "u",
    "app_id": "a",
    "cluster_id": "c",
}


@pytest.fixture(params=["memory", "sqlite"])
def broker(request, tmp_path):
    if request.param == "memory":
        return "memory://"
    transports.register()
    return f"sqlite-queue:///{tmp_path}/queue.db"


@pytest.fixture
def queue(broker):
    name = f"queue-{uuid.uuid4().hex}"
    publisher = Publisher(broker)
    publisher.declare_queue(name)
    publisher.close()
    return name


def taken(broker, queue):
    with Connection(broker) as connection, connection.channel() as channel:
        found = []
        while message := channel.basic_get(queue, no_ack=True):
            found.append(message)
        return found


def test_stored_means_confirmed_and_nowhere_means_unroutable(broker, queue):
    publisher = Publisher(broker)
    keys = [queue if number % 3 else "nowhere" for number in range(30)]

    outcomes = publisher.publish(
        [Outgoing("", key, b"%d" % number, {"message_id": str(number)}) for number, key in enumerate(keys)]
    )

    assert outcomes == [None if key == queue else "unroutable" for key in keys]
    assert [message.properties["message_id"] for message in taken(broker, queue)] == [
        str(number) for number, key in enumerate(keys) if key == queue
    ]
    publisher.close()


def test_bytes_and_headers_arrive_as_they_were(broker, queue):
    publisher = Publisher(broker)
    body = bytes(range(256))

    assert publisher.publish([Outgoing("", queue, body, {"headers": {"n": 1, "t": "ü"}, "type": "x"})]) == [
        None
    ]

    (message,) = taken(broker, queue)
    assert bytes(message.body) == body
    assert message.headers == {"n": 1, "t": "ü"}
    assert message.properties["type"] == "x"
    publisher.close()


def test_declare_keeps_what_is_there(broker, queue):
    publisher = Publisher(broker)
    assert publisher.publish([Outgoing("", queue, b"kept", {})]) == [None]
    publisher.declare_queue(queue)
    publisher.close()
    assert len(taken(broker, queue)) == 1


def test_what_a_file_cannot_store_holds_up_no_neighbour(tmp_path):
    transports.register()
    broker = f"sqlite-queue:///{tmp_path}/queue.db"
    publisher = Publisher(broker)
    publisher.declare_queue("q")

    outcomes = publisher.publish([Outgoing("", "q", b"", {"headers": {"x": x}}) for x in (1, object(), 2)])

    assert outcomes == [None, "unencodable", None]
    publisher.close()
    assert [message.headers["x"] for message in taken(broker, "q")] == [1, 2]


def test_an_unknown_scheme_is_a_wrong_setting():
    with pytest.raises(ConfigurationError, match=r"broker: .*nonsense"):
        Publisher("nonsense://user:secret@host")


def test_no_broker_is_told_without_the_password():
    publisher = Publisher("amqp://user:secret@127.0.0.1:1//")
    with pytest.raises(PublisherUnavailableError) as caught:
        publisher.publish([Outgoing("", "q", b"", {})])
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)
    assert caught.value.outcomes == ("unknown",)


def test_a_server_that_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        publisher = Publisher(
            f"amqp://127.0.0.1:{mute.getsockname()[1]}//", transport_options={"connect_timeout": 0.2}
        )
        with pytest.raises(PublisherUnavailableError):
            publisher.publish([Outgoing("", "q", b"", {})])


def test_properties_are_encoded_as_py_amqp_does():
    theirs = dict(PROPERTIES)
    theirs["application_headers"] = theirs.pop("headers")
    assert encode_properties(PROPERTIES) == amqp.Message(**theirs)._serialize_properties()
    decoded, _ = decode_properties_basic(encode_properties(PROPERTIES), 0)
    assert decoded == theirs


@pytest.mark.parametrize(
    "properties",
    [
        {"message_id": "x" * 256},
        {"message_id": 5},
        {"priority": 256},
        {"timestamp": -1},
        {"headers": {"a": object()}},
        {"headers": {"a": 2**64}},
        {"headers": {"k" * 256: 1}},
        {"application_headers": {}},
    ],
)
def test_what_amqp_cannot_carry_is_refused(properties):
    with pytest.raises(UnencodableError) as caught:
        encode_properties(properties)
    assert caught.value.reason == "unencodable"


@pytest.mark.parametrize("size", [0, 1, 4_088, 4_089, 10_000])
def test_no_frame_is_larger_than_agreed(size):
    body = bytes(number % 251 for number in range(size))
    frames = FrameEncoder(7, 4_096).encode("exchange", "key", {"message_id": "m"}, body)

    kinds, bodies, offset = [], b"", 0
    while offset < len(frames):
        kind, channel, length = unpack_from(">BHI", frames, offset)
        assert channel == 7
        assert length + 8 <= 4_096
        if kind == 3:
            bodies += frames[offset + 7 : offset + 7 + length]
        assert frames[offset + 7 + length] == 0xCE
        kinds.append(kind)
        offset += length + 8
    assert kinds == [1, 2] + [3] * -(-size // 4_088)
    assert bodies == body


def test_properties_larger_than_a_frame_are_refused():
    with pytest.raises(UnencodableError) as caught:
        FrameEncoder(1, 4_096).encode("", "q", {"headers": {"a": "x" * 4_096}}, b"")
    assert caught.value.reason == "headers-too-large"


def test_after_an_abort_nothing_is_published(broker, queue):
    publisher = Publisher(broker)
    assert publisher.publish([Outgoing("", queue, b"before", {})]) == [None]
    publisher.abort()
    with pytest.raises(PublisherUnavailableError, match="aborted"):
        publisher.publish([Outgoing("", queue, b"after", {})])
    publisher.close()
    assert [bytes(message.body) for message in taken(broker, queue)] == [b"before"]


@pytest.fixture
def talker():
    """A host that takes connections and says what no broker says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk():
            with suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    peer.close()

        thread = Thread(target=talk)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_after_a_host_of_no_use_the_next_one_is_tried(talker):
    publisher = Publisher(f"amqp://127.0.0.1:{talker}//;amqp://127.0.0.1:1//")
    tried = []
    for _ in range(3):
        with pytest.raises(PublisherUnavailableError) as told:
            publisher.publish([Outgoing("", "q", b"", {})])
        tried.append(":1/" in str(told.value))
    assert tried == [False, True, False]
