"""What is fed with bytes, and what has to hold whatever they are: all that comes from outside.

Each target takes bytes and returns a word for what became of them; it raises ``AssertionError`` for
what may not be, and whatever else escapes is a fault as well. ``EXAMPLES`` are bytes to start from.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from amqp.basic_message import Message
from amqp.serialization import loads
from kombu.exceptions import DecodeError

from aggregator.correlation import compile_expression
from aggregator.documents import make_document
from aggregator.errors import MessageRefusedError, SinkError
from aggregator.intake import Intake
from aggregator.push_message import fault_of, read_push
from aggregator.pushing import Pushes
from aggregator.sinks import apns_requests, fcm_message
from aggregator.sinks.base import Verdict
from aggregator.sinks.elasticsearch_answer import Rules, request_fault
from aggregator.testing.clock import VirtualClock
from aggregator.testing.memory import MemoryDelivery
from consumers.delivery import BatchedDelivery
from consumers.transports import amqp_batched
from consumers.transports.amqp_frames import Arrival
from consumers.transports.amqp_properties import (
    HEADERS,
    PROPERTIES,
    _find,
    _skip,
    may_have_header,
    read_all,
    read_declared,
    read_headers,
    read_properties,
    read_property,
    read_route,
    read_said,
)
from tests.amqp_streams import FRAME_MAX, Client, deliver

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = sorted((Path(__file__).parents[1] / "property" / "amqp_recorded").glob("*.gz"))
#: What may stand in a connection's buffer: three frames of twice the negotiated size, and one read.
BOUND = 3 * (2 * FRAME_MAX + 8) + amqp_batched.READ_BYTES
#: Bytes of a document, in these targets.
LIMIT = 64 * 1024
#: Characters of what is said of a refusal: no message stands in it.
LONGEST_DETAIL = 300
REASONS = {
    "bad-charset", "bad-json", "bad-properties", "bad-value", "binary", "compressed", "delivery-limit",
    "empty-body", "no-key", "not-an-object", "too-large",
}  # fmt: skip


def stream(data: bytes) -> str:
    """What a broker sends after the opening: it ends in one error, and no more is held than may be."""
    # the first byte says how it is cut: each read brings so much
    step = (data[0] if data else 0) * 8 + 1
    heard = data[1:]
    client = Client(
        amqp_batched.Connection,
        [heard[i : i + step] for i in range(0, len(heard), step)],
        closes=True,
        tags=("c", "recorded"),
    )
    events = client.run()
    assert client.most <= BOUND
    *before, (end, kind, *_) = events
    assert end == "error"
    assert all(name != "error" for name, *_ in before)
    received = sum(len(event[3]) for event in events if event[0] == "delivery")
    assert received <= len(data), "more was delivered than was received"
    return str(kind)


def properties(data: bytes) -> str:
    """A header frame's flags and values: each reader reads or says that it cannot; they agree."""
    raw = data[:FRAME_MAX].ljust(2, b"\0")

    def attempt(read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except DecodeError:
            return DecodeError

    whole = attempt(read_all, raw)
    headers, rest, declared = (attempt(read, raw) for read in (read_headers, read_properties, read_declared))
    single = {name: attempt(read_property, raw, name) for name in PROPERTIES if name != "headers"}
    attempt(read_said, raw)
    attempt(read_route, raw)
    if whole is DecodeError:
        return "unreadable"
    if raw[0] & 0x20 and loads("F", raw, at := _find(raw, HEADERS))[1] != _skip(raw, at, (-4,)):
        return "a table of another length than it says: brokers let none through"
    assert repr(headers) == repr(whole.get("application_headers", {}))
    assert all(
        may_have_header(raw, name.encode("utf-8", "surrogatepass"))
        for name in headers
        if isinstance(name, str)
    )
    assert repr(rest) == repr({k: v for k, v in whole.items() if k != "application_headers"})
    assert {name: value for name, value in single.items() if value is not None} == rest
    assert declared == (whole.get("content_type"), whole.get("content_encoding"))
    return "read"


class _Link:
    epoch, alive, unsent = 1, True, False


_INTAKE = Intake(
    VirtualClock(),
    key=compile_expression("/key"),
    id=compile_expression("message_id"),
    default_key="none",
    max_message=LIMIT,
)


def message(data: bytes) -> str:
    """A delivery: properties, then a body. It has a document or is refused with a known reason."""
    size = int.from_bytes(data[:2], "big")
    raw, body = data[2 : 2 + size].ljust(2, b"\0"), data[2 + size :]
    delivery = BatchedDelivery(_Link(), Arrival(1, b"c", 1, 0, b"\1x\1k", raw, body))  # type: ignore[arg-type]
    found = _INTAKE.sort([delivery])
    if found.refused:
        (refused,) = found.refused
        return _known(refused.reason, refused.detail)
    try:
        document = make_document(delivery, trust_json=False, max_bytes=LIMIT)
    except MessageRefusedError as refusal:
        return _known(refusal.reason, refusal.detail)
    assert len(document) <= LIMIT
    assert b"\n" not in document
    assert b"\r" not in document
    assert type(orjson.loads(document)) is dict
    return "document"


def _known(reason: str, detail: str) -> str:
    assert reason in REASONS, (reason, detail)
    return reason


_RULES = Rules(op="create")
_IDS = ("a", "b")


def answer(data: bytes) -> str:
    """What Elasticsearch, or whatever stands in its place, answers: verdicts, or an error of a sink."""
    try:
        body: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        body = data.decode(errors="replace")
    for status in (200, 400, 413, 429, 503):
        assert isinstance(request_fault(status, body), SinkError)
    try:
        verdicts = _RULES.verdicts(body, _IDS)
    except SinkError:
        return "unknown"
    if verdicts is None:
        return "written"
    assert len(verdicts) == len(_IDS)
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    return "verdicts"


NOW = 1_700_000_000.0


def push(data: bytes) -> str:
    """A push message: each recipient is sent to or refused, and what is sent is one header, one document."""
    delivery = MemoryDelivery(data)
    made = Pushes(VirtualClock(time=NOW), LIMIT).make(None, [delivery], LIMIT)
    for _, refusal in made.refused:
        assert refusal.reason in REASONS | {"bad-push"}, refusal
        assert len(refusal.detail) < LONGEST_DETAIL
        return refusal.reason
    given = read_push(orjson.loads(data), NOW)
    assert len(made.items) + len(made.final) == len(given.recipients)
    assert all(bool(fault_of(given.recipients[word.item.address.index])) for word in made.final)
    assert given.notification.due(NOW) >= NOW
    if not made.items:
        return "nobody"
    prepared: Any
    if given.platform == "apns":
        prepared = apns_requests.prepare(given.notification, "topic")
    else:
        prepared = fcm_message.prepare(given.notification, dry_run=False, now=NOW)
    if isinstance(prepared, Verdict):
        assert len(prepared.detail) < LONGEST_DETAIL
        return "refused"
    for item in made.items:
        assert len(item.address.apns_id) == len("00000000-0000-0000-0000-000000000000")
        if given.platform == "fcm":
            assert orjson.loads(prepared.body(item.address.token))["message"]["token"] == item.address.token
    if given.platform == "apns":
        assert not any(b"\n" in line or b"\r" in line or b"\0" in line for line in prepared.lines)
    return "sent"


def _message_of(body: bytes, **values: Any) -> bytes:
    raw = Message(**values)._serialize_properties()
    return len(raw).to_bytes(2, "big") + bytes(raw) + body


_JSON = b'{"key":"k","n":[1,2.5,null,true,"\\u2028"]}'
_HEADERS = {"compression": "gzip", "x-delivery-count": 3, "n": {"a": [1, "b", b"c", None, 2.5]}}
_MESSAGES = [
    _message_of(_JSON, content_type="application/json", message_id="1"),
    _message_of("text".encode("utf-16"), content_type="text/plain; charset=utf-16"),
    _message_of(b"text", content_type="text/plain", content_encoding="punycode"),
    _message_of(_JSON, application_headers=_HEADERS, priority=1, timestamp=1_700_000_000),
    *(
        _message_of(compress(_JSON), application_headers={"compression": method})
        for method, compress in {
            "gzip": gzip.compress, "zlib": zlib.compress, "bzip2": bz2.compress, "xz": lzma.compress,
        }.items()
    ),
]  # fmt: skip
_ANSWERS = [
    b'{"errors":false,"items":[{"create":{"_id":"a","status":201}},{"create":{"_id":"b","status":200}}]}',
    (
        b'{"errors":true,"items":[{"create":{"_id":"a","status":400,"error":{"type":"mapper_parsing_exception"}}},'
        b'{"create":{"_id":"b","status":429,"error":{"type":"es_rejected_execution_exception"}}}]}'
    ),
    (
        b'{"errors":true,"items":[{"create":{"_id":"a","status":400,"error":{"type":"illegal_argument_exception",'
        b'"reason":"[1:2] failed to parse field [n] of type [long]","caused_by":{"type":"x"}}}},1]}'
    ),
    b'{"error":{"type":"security_exception","reason":"unable"},"status":401}',
    b"<html></html>",
]

_PUSHES = [
    (
        b'{"campaign":"c1","platform":"apns","app":"news","notification":{"payload":{"aps":{"alert":"words"}},'
        b'"collapse_id":"a","priority":10,"push_type":"alert","topic":"com.example","ttl":3600},'
        b'"not_before":1699990000,"not_after":1700040000,"next_window":1700080000,"expires":1700600000,'
        b'"recipients":[["d1","aa",1690000000],["d2","bb"],[3,"cc",null],["d4",""]]}'
    ),
    (
        b'{"campaign":"c1","platform":"fcm","notification":{"payload":{"notification":{"title":"t"},'
        b'"data":{"n":"1"},"android":{"priority":"HIGH"}},"collapse_id":"a","priority":5,"expiration":1700000100},'
        b'"device":"d1","token":"t1","registered":1690000000.5}'
    ),
    (
        b'{"campaign":"c","platform":"apns","notification":{"payload":{"aps":{"content-available":1}},'
        b'"push_type":"background","ttl":0},"recipients":[["d","aa"]]}'
    ),
    b'{"campaign":"c","platform":"fcm","notification":{"payload":{"data":{"n":1}}},"recipients":[["d","t"]]}',
    b'{"campaign":"c","platform":"sms","notification":{"payload":{"a":1}},"recipients":[["d","t"]]}',
]

EXAMPLES: dict[Callable[[bytes], str], list[bytes]] = {
    stream: [
        *(b"\xff" + gzip.decompress(path.read_bytes()) for path in RECORDED),
        b"\x01" + b"".join(deliver(pieces=[2])),
    ],
    properties: [example[2 : 2 + int.from_bytes(example[:2], "big")] for example in _MESSAGES],
    message: _MESSAGES,
    answer: _ANSWERS,
    push: _PUSHES,
}
TARGETS = {target.__name__: target for target in EXAMPLES}
#: The words of the examples, for the fuzzer to put elsewhere.
WORDS = [
    b"application/json", b"application/octet-stream", b"text/plain", b"charset=", b"utf-16", b"punycode",
    b"compression", b"gzip", b"deflate", b"bzip2", b"xz", b"x-delivery-count", b'{"create":', b'"status":',
    b'"_id":"a"', b'"error":', b'"type":', b'"reason":', b'"items":[', b'"errors":',
    b'"recipients":', b'"notification":', b'"payload":', b'"platform":"apns"', b'"platform":"fcm"', b'"ttl":',
    b'"not_before":', b'"expires":', b"1e308", b"-1", b"null", b"true", b'"\\ud83d\\ude00"', b"1700000000",
    b"\x00\x3c\x00\x3c", b"\xce\x02\x00\x01", b"\xce\x03\x00\x01", b"\xce\x01\x00\x01",
]  # fmt: skip
