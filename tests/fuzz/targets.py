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
from aggregator.sinks.base import Verdict
from aggregator.sinks.elasticsearch_answer import Rules, request_fault
from aggregator.testing.clock import VirtualClock
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

EXAMPLES: dict[Callable[[bytes], str], list[bytes]] = {
    stream: [
        *(b"\xff" + gzip.decompress(path.read_bytes()) for path in RECORDED),
        b"\x01" + b"".join(deliver(pieces=[2])),
    ],
    properties: [example[2 : 2 + int.from_bytes(example[:2], "big")] for example in _MESSAGES],
    message: _MESSAGES,
    answer: _ANSWERS,
}
TARGETS = {target.__name__: target for target in EXAMPLES}
#: The words of the examples, for the fuzzer to put elsewhere.
WORDS = [
    b"application/json", b"application/octet-stream", b"text/plain", b"charset=", b"utf-16", b"punycode",
    b"compression", b"gzip", b"deflate", b"bzip2", b"xz", b"x-delivery-count", b'{"create":', b'"status":',
    b'"_id":"a"', b'"error":', b'"type":', b'"reason":', b'"items":[', b'"errors":',
    b"\x00\x3c\x00\x3c", b"\xce\x02\x00\x01", b"\xce\x03\x00\x01", b"\xce\x01\x00\x01",
]  # fmt: skip
