"""The batched transport against py-amqp: of the same bytes, however they are cut, both see the same."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from amqp import spec
from amqp.basic_message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.exceptions import DecodeError
from kombu.transport import pyamqp

from consumers.transports import amqp_batched
from tests.amqp_streams import FRAME_MAX, HEARTBEAT, Client, deliver, frame, method

RECORDED = sorted((Path(__file__).parent / "amqp_recorded").glob("*.gz"))
#: Three frames of twice the negotiated size, and one read of the socket.
BOUND = 3 * (2 * FRAME_MAX + 8) + amqp_batched.READ_BYTES

texts = st.text(max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | texts
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
octets = st.integers(0, 255)
#: How a stream is cut: by a seed, as each cut drawn by itself would be more than the stream.
seeded = st.integers(0, 2**32).map(random.Random)
properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.sampled_from(["application/json", "text/plain", ""]),
        "content_encoding": st.sampled_from(["utf-8", "binary", "utf-16", "nonsense"]),
        "application_headers": st.dictionaries(texts | st.just("compression"), values, max_size=4),
        "delivery_mode": octets,
        "priority": octets,
        "correlation_id": texts,
        "reply_to": texts,
        "expiration": texts,
        "message_id": texts,
        "timestamp": st.integers(0, 2**64 - 1),
        "type": texts,
        "user_id": texts,
        "app_id": texts,
        "cluster_id": texts,
    },
)
bodies = st.binary(max_size=40) | st.just(b'{"n": 1}') | st.integers(4000, 20_000).map(lambda n: b"b" * n)


@st.composite
def deliveries(draw):
    """The frames of a delivery."""
    body = draw(bodies)
    raw = Message(**draw(properties))._serialize_properties()
    pieces = range(FRAME_MAX - 8, len(body), FRAME_MAX - 8)
    if draw(st.booleans()):
        pieces = [*pieces, *draw(st.lists(st.integers(0, 60), max_size=2))]
    return deliver(
        draw(st.sampled_from([1, 1, 2])),
        draw(st.integers(0, 2**64 - 1)),
        body,
        raw,
        consumer=draw(st.sampled_from(["c", "c", "c", "d", "unknown"])),
        redelivered=draw(st.booleans()),
        route=(draw(texts), draw(texts)),
        pieces=pieces,
    )


def returned(channel):
    first, *content = deliver(channel, body=b"returned", properties=b"\x80\x00\x01t")
    del first
    return [method(channel, spec.Basic.Return, "Bsss", 312, "NO_ROUTE", "x", "k"), *content]


others = st.sampled_from(
    [
        [HEARTBEAT],
        [method(1, spec.Basic.Ack, "Lb", 7, True)],
        [method(2, spec.Basic.Nack, "Lb", 8, False)],
        [method(1, spec.Basic.Cancel, "s", "d")],
        [method(1, spec.Basic.CancelOk, "s", "c")],
        [method(2, spec.Basic.ConsumeOk, "s", "e")],
        [method(0, spec.Connection.Blocked, "s", "memory")],
        [method(0, spec.Connection.Unblocked)],
        [method(1, spec.Channel.Flow, "b", False)],
        returned(1),
        returned(2),
    ]
)
OPENING, HEADER, BODY = deliver()
FAULTS = {
    "channel closed": [
        method(1, spec.Channel.Close, "BsBB", 406, "PRECONDITION_FAILED", 60, 80),
        method(1, spec.Channel.OpenOk),
    ],
    "connection closed": [method(0, spec.Connection.Close, "BsBB", 320, "CONNECTION_FORCED", 0, 0)],
    "unknown channel": [method(3, spec.Basic.Ack, "Lb", 7, True)],
    "delivery on an unknown channel": deliver(3),
    "unknown method": [method(1, (60, 99))],
    "unknown class of a header": [OPENING, frame(2, 1, b"\0\x3d" + HEADER[9:-1]), BODY],
    "body that nobody announced": [BODY],
    "header that nobody announced": [HEADER],
    "two methods": [OPENING, OPENING, HEADER, BODY],
    "two headers": [OPENING, HEADER, HEADER, BODY],
    "body before its header": [OPENING, BODY, HEADER],
    "unknown frame": [frame(4, 1, b"")],
    "unknown frame within": [OPENING, HEADER, frame(4, 1, b"body")],
    "cut method": [frame(1, 1, b"\0\x3c")],
    "cut delivery": [frame(1, 1, OPENING[7:14]), HEADER, BODY],
    "cut header": [OPENING, frame(2, 1, b"\0\x3c" + bytes(11)), BODY],
    "consumer tag beyond its frame": [frame(1, 1, b"\0\x3c\0\x3c\x0bc" + bytes(12)), HEADER, BODY],
    "end of a heartbeat": [frame(8, 0, b"", end=0)],
    "end of a method": [OPENING[:-1] + b"\xcd", HEADER, BODY],
    "end of a method, nothing more": [OPENING[:-1] + b"\xcd"],
    "end of a header": [OPENING, HEADER[:-1] + b"\xcd", BODY],
    "end of a header, nothing more": [OPENING, HEADER[:-1] + b"\xcd"],
    "end of a body": [OPENING, HEADER, BODY[:-1] + b"\xcd"],
    "end of an empty delivery": [*deliver(body=b"")[:1], deliver(body=b"")[1][:-1] + b"\xcd"],
    "body on another channel": [OPENING, HEADER, frame(3, 2, b"body")],
    "header on another channel": [OPENING, frame(2, 2, HEADER[7:-1]), BODY],
    "longer body than announced": [OPENING, HEADER, frame(3, 1, b"a longer body")],
    "shorter body than announced": [
        OPENING,
        HEADER,
        frame(3, 1, b"b"),
        frame(3, 1, b""),
        frame(3, 1, b"ody"),
    ],
    "all bits": [frame(1, 1, OPENING[7:-6] + b"\xfe" + OPENING[-5:-1]), HEADER, BODY],
    "undecodable": [deliver(properties=b"\x20\x00\x00\x00\x00\xff\x01aZ")[0]],
}
endings = st.just([]) | st.sampled_from(list(FAULTS.values()))


@st.composite
def streams(draw):
    """Frames of both channels, those of one channel in their order; then what may end it all."""
    lanes: dict[int, list] = {1: [], 2: []}
    for frames in draw(st.lists(deliveries() | others, max_size=12)):
        lanes[2 if frames[0][2] == 2 else 1] += frames
    order = draw(seeded)
    mixed = []
    interleaved = draw(st.booleans())
    while lanes[1] or lanes[2]:
        lane = lanes[order.choice([n for n in lanes if lanes[n]])]
        count = 1 if interleaved else len(lane)
        mixed += lane[:count]
        del lane[:count]
    return b"".join([*mixed, *draw(endings), *(deliver() if draw(st.booleans()) else [])])


def cut(stream, order, *, waits=True):
    """The stream in pieces: single bytes, many small ones or few; with and without waits in between."""
    longest = order.choice([1, 9, 60, 3_000, 10**6])
    chunks, at = [], 0
    while at < len(stream):
        size = order.randint(1, longest)
        chunks.append(stream[at : at + size])
        at += size
        if waits and order.random() < 0.1:
            chunks.append(None)
    return chunks


def both(chunks, **options):
    theirs = Client(pyamqp.Connection, list(chunks), **options)
    ours = Client(amqp_batched.Connection, list(chunks), **options)
    theirs.run()
    ours.run()
    assert ours.most <= BOUND
    return theirs, ours


def the_same(theirs, ours):
    assert ours.events == theirs.events
    assert ours.socket.sent == theirs.socket.sent
    assert ours.connection.connected == theirs.connection.connected


@given(streams(), seeded, st.booleans())
def test_generated_streams(stream, order, closes):
    # where the answer to Channel.Open is waited for inside, a time-out would end that
    waits = method(1, spec.Channel.OpenOk) not in stream
    theirs, ours = both(cut(stream, order, waits=waits), closes=closes)
    the_same(theirs, ours)
    if not ours.events or ours.events[-1][0] != "error":
        # a delivery whose last frame has not come is not counted yet
        assert 0 <= theirs.connection.bytes_recv - ours.connection.bytes_recv <= 2 * len(ours.channels)


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("split", [False, True], ids=["whole", "by bytes"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault(fault, split, closes):
    """The first message is good, and so is the last: whether it comes depends on the fault."""
    stream = b"".join([*deliver(tag=1), *fault, *deliver(tag=2)])
    chunks = [stream[i : i + 1] for i in range(len(stream))] if split else [stream]
    theirs, ours = both(chunks, closes=closes)
    the_same(theirs, ours)
    assert ours.events[0][2] == 1


@pytest.mark.parametrize("fault", [name for name in FAULTS if "nothing more" in name])
def test_a_fault_is_seen_before_anything_more_comes(fault):
    theirs, ours = both([b"".join(FAULTS[fault])])
    the_same(theirs, ours)
    assert ours.events[-1][1] == "UnexpectedFrame"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
@settings(max_examples=15)
@given(order=seeded)
def test_recorded_streams(path, order):
    stream = gzip.decompress(path.read_bytes())
    theirs, ours = both(cut(stream, order), tags=("recorded",), frame_max=8192)
    the_same(theirs, ours)
    assert sum(event[0] == "delivery" for event in ours.events) > 10
    assert not ours.connection._busy
    assert ours.connection.bytes_recv == theirs.connection.bytes_recv


def test_streams_were_recorded():
    assert len(RECORDED) >= 2


@given(streams(), seeded, st.integers(1, 4))
def test_damaged_streams(stream, order, damages):
    """Whatever comes: it ends, holds no more than it may, and what py-amqp delivers until then comes too."""
    damaged = bytearray(stream or HEARTBEAT)
    for _ in range(damages):
        damaged[order.randrange(len(damaged))] = order.choice(
            [0, 1, 2, 3, 8, 60, 206, 255, order.randrange(256)]
        )
    theirs, ours = both(cut(bytes(damaged), order, waits=False), closes=True)
    *seen_by_them, (_, their_error, _) = theirs.events  # at the least both hear the end of the stream
    *seen_by_us, (_, our_error, _) = ours.events
    # py-amqp would take up to 4 GiB for a frame; what nobody reads of a message is no error here
    if our_error == "FrameError" or their_error == "undecodable":
        common = min(len(seen_by_us), len(seen_by_them))
        assert seen_by_us[:common] == seen_by_them[:common]
    else:
        assert (seen_by_us, our_error) == (seen_by_them, their_error)


BROKEN = {
    "a type that is none": b"\x20\x00\x00\x00\x00\x03\x01aZ",
    "cut": b"\x20\x00\x00\x00\x00\xff\x01aI\x00",
    "not UTF-8": b"\x80\x00\x02\xff\xfe",
    "no flags' values": b"\x00\x40",
    "a date beyond all": b"\x20\x00\x00\x00\x00\x0b\x01aT" + b"\xff" * 8,
    "too deep": b"\x20\x00" + b"\x00\x00\x20\x00\x01aF" * 1000,
}


@pytest.mark.parametrize("size", [0, 5, 9_000], ids=["no body", "one frame", "several frames"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_properties_that_cannot_be_decoded_are_their_messages_fault_alone(broken, size):
    body = b"b" * size
    bad = deliver(tag=2, body=body, properties=broken, pieces=[4_000, 8_000])
    chunks = [b"".join([*deliver(tag=1), *bad, *deliver(tag=3)])]
    theirs, ours = both(chunks)
    assert [event[0] for event in theirs.events] == ["delivery", "error"]
    assert ours.events[:2] == [theirs.events[0], ("error", "undecodable", "")]
    # it was the asking that raised; the link goes on
    ours.events.clear()
    ours.run()
    assert [event[2] for event in ours.events] == [3]
    unread = Client(amqp_batched.Connection, chunks)
    got = []
    unread.connection.channels[1].callbacks["c"] = got.append
    unread.run()
    assert [message.delivery_tag for message in got] == [1, 2, 3]
    assert got[1].body == (body or "")
    with pytest.raises(DecodeError):
        _ = got[1].properties
    got[1].reject()
    assert unread.socket.sent.endswith(method(1, spec.Basic.Reject, "Lb", 2, False))


@given(st.binary(max_size=300), seeded)
def test_noise(noise, order):
    theirs, ours = both(cut(noise, order), closes=True)
    assert [event for event in ours.events if event[0] != "error"] == []
    assert ours.events[-1][0] == theirs.events[-1][0] == "error"


def test_bytes_that_trickle_in_are_not_copied_again_and_again():
    stream = b"".join(deliver(body=b"x" * 8000))
    theirs, ours = both([stream[i : i + 1] for i in range(len(stream))])
    the_same(theirs, ours)
