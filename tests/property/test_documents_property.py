"""Whatever comes in: one line of JSON that holds an object, or a refusal with a known reason."""

from __future__ import annotations

import bz2
import json
import zlib
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.documents import make_document
from aggregator.errors import MessageRefusedError
from aggregator.testing.memory import MemoryDelivery

REASONS = {
    "bad-charset", "bad-json", "binary", "compressed", "empty-body", "not-an-object", "too-large",
}  # fmt: skip
TYPES = st.sampled_from(
    [
        None,
        "",
        "application/json",
        "text/plain",
        "text/plain; charset=utf-16",
        "a/b+json",
        "image/png",
        ";;=",
        "x",
    ]
)
ENCODINGS = st.sampled_from(
    [None, "", "utf-8", "latin-1", "utf-16", "utf-32", "binary", "gzip", "bzip2", "punycode", "cp1252", "?"]
)
COMPRESSIONS = st.sampled_from([None, "gzip", "application/x-bz2", "application/x-lzma", "zstd", "", 3])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=5)
WILD = st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
PLAIN = OBJECTS.map(orjson.dumps)
BODIES = st.binary(max_size=60) | PLAIN | WILD | PLAIN.map(zlib.compress) | WILD.map(bz2.compress)


def make(body: bytes, limit: int, **given_: Any) -> bytes | str:
    """Return the document, or the reason of its refusal."""
    headers = {"compression": given_.pop("compression")} if given_.get("compression") is not None else {}
    given_.pop("compression", None)
    properties = {name: value for name, value in given_.items() if value is not None}
    delivery = MemoryDelivery(body, headers=headers, properties=properties)
    try:
        return make_document(delivery, trust_json=False, max_bytes=limit)
    except MessageRefusedError as refusal:
        return refusal.reason


@given(BODIES, TYPES, ENCODINGS, COMPRESSIONS, st.integers(1, 200))
@settings(max_examples=4 * settings().max_examples)
def test_one_line_of_an_object_or_a_known_reason(
    body: bytes, content_type: str | None, content_encoding: str | None, compression: Any, limit: int
) -> None:
    made = make(
        body, limit, content_type=content_type, content_encoding=content_encoding, compression=compression
    )
    if isinstance(made, str):
        assert made in REASONS
    else:
        assert len(made) <= limit
        assert b"\n" not in made
        assert b"\r" not in made
        assert type(orjson.loads(made)) is dict
        assert isinstance(json.loads(made.decode()), dict)


@given(OBJECTS, st.sampled_from([None, 0, 1, "\r", "\n\n", "\t\n"]), st.booleans())
def test_the_lines_of_json_are_joined_without_a_change(value: Any, indent: Any, ascii_only: bool) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    made = make(body, 10_000_000, content_type="application/json")
    assert isinstance(made, bytes)
    assert json.loads(made) == json.loads(body)
    if b"\n" not in body and b"\r" not in body:
        assert made == body


@given(
    OBJECTS,
    st.sampled_from(
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "shift_jis", "gb18030"]
    ),
)
def test_a_charset_changes_the_bytes_alone(value: Any, charset: str) -> None:
    text = json.dumps(value, ensure_ascii=charset in {"latin-1", "shift_jis"})
    made = make(text.encode(charset), 10_000_000, content_type="application/json", content_encoding=charset)
    assert isinstance(made, bytes)
    assert json.loads(made) == json.loads(text)


@given(TEXTS.filter(bool))
def test_text_comes_back(text: str) -> None:
    made = make(text.encode(), 10_000_000, content_type="text/plain")
    assert isinstance(made, bytes)
    assert orjson.loads(made) == {"message": text}
