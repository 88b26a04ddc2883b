"""From bodies to documents: what passes, what is wrapped, what is refused and why."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import pickle
import tracemalloc
import zlib
from typing import Any

import orjson
import pytest

from aggregator.documents import make_document
from aggregator.errors import MessageRefusedError
from aggregator.testing.memory import MemoryDelivery

JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
LIMIT = 1024 * 1024


def document(body: bytes, *, trust: bool = False, limit: int = LIMIT, **given: Any) -> bytes:
    """Make the document of a body; ``headers`` apart, what is given are its properties."""
    headers = given.pop("headers", {})
    delivery = MemoryDelivery(body, headers=headers, properties=given)
    return make_document(delivery, trust_json=trust, max_bytes=limit)


def reason(body: bytes, **given: Any) -> str:
    with pytest.raises(MessageRefusedError) as caught:
        document(body, **given)
    assert len(caught.value.detail) < 150
    assert caught.value.__context__ is None, "a foreign exception may carry the body"
    return caught.value.reason


@pytest.mark.parametrize(
    "declared",
    [
        {"content_type": "application/json"},
        {"content_type": "application/json", "content_encoding": "utf-8"},
        {"content_type": "application/json", "content_encoding": "UTF8"},
        {"content_type": "application/json", "content_encoding": "binary"},
        {"content_type": "application/json", "content_encoding": "us-ascii"},
        {"content_type": "Application/JSON; charset=UTF-8"},
        {"content_type": 'application/json;version=1; charset="utf-8"'},
        {"content_type": "application/vnd.example+json"},
        {"content_type": "text/json"},
        {"content_type": "", "content_encoding": ""},
        {"content_encoding": "utf-8"},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("trust", [False, True])
def test_json_passes_as_the_bytes_that_came(declared: dict[str, str], trust: bool) -> None:
    body = rb'{ "b":1.10, "a":"\u00e4", "a":2e0 , "big":123456789012345678901234567890}'
    assert document(body, trust=trust, **declared) == body


def test_json_is_not_copied() -> None:
    body = b'{"a":1}'
    assert document(body, **JSON) is body


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a":1}\n', b'{"a":1}'),
        (b'\r\n{\r\n  "a": 1,\r\n\r\n\t"b": "c d"\r\n}\r\n', b'{ "a": 1, "b": "c d" }'),
        (b'{"a":\r1}', b'{"a": 1}'),
        (rb'{"a":"\r\n"}', rb'{"a":"\r\n"}'),
        ('{"a":"\u2028\u0085"}'.encode(), '{"a":"\u2028\u0085"}'.encode()),
    ],
)
def test_json_of_several_lines_becomes_one(body: bytes, expected: bytes, trust: bool) -> None:
    assert document(body, trust=trust, **JSON) == expected


def test_a_body_that_was_parsed_before_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = MemoryDelivery(b'{"a":1}', properties=JSON)
    delivery.json()
    monkeypatch.setattr("aggregator.documents.orjson.loads", None)
    assert make_document(delivery, trust_json=False, max_bytes=LIMIT) == b'{"a":1}'


def test_the_check_leaves_nothing_behind() -> None:
    delivery = MemoryDelivery(b'{"a":1}', properties=JSON)
    make_document(delivery, trust_json=False, max_bytes=LIMIT)
    assert delivery._json is None


def test_trust_checks_the_outside_alone() -> None:
    assert document(b'{"a":NaN}', trust=True, **JSON) == b'{"a":NaN}'
    assert reason(b"[1]", trust=True, **JSON) == "not-an-object"
    assert document(b'{"a":NaN}', trust=True) == b'{"message":"{\\"a\\":NaN}"}', "nobody declared it as JSON"


BAD_JSON = {
    "cut": b'{"a":',
    "text": b"hello",
    "python": b"{'a': 1}",
    "comma": b'{"a":1,}',
    "two": b'{"a":1}\n{"b":2}',
    "action": b'{"a":1}\n{"index":{}}\n{}',
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "beyond-double": b'{"a":1e999}',
    "integer-of-5000-digits": b'{"a":' + b"1" * 5000 + b"}",
    "lone-surrogate": rb'{"a":"\ud800"}',
    "lone-surrogate-in-a-key": rb'{"\udfff":1}',
    "raw-surrogate": b'{"a":"\xed\xa0\x80"}',
    "not-utf-8": b'{"a":"\xff"}',
    "overlong": b'{"a":"\xc0\x80"}',
    "byte-order-mark": b'\xef\xbb\xbf{"a":1}',
    "raw-line-break": b'{"a":"\n"}',
    "raw-nul": b'{"a":"\x00"}',
    "deep": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep-lists": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "white": b"  \n ",
    "comment": b'{"a":1} // one',
    "utf-16": '{"a":1}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json_is_refused(body: bytes) -> None:
    assert reason(body, limit=4 * LIMIT, **JSON) == "bad-json"


@pytest.mark.parametrize("body", [b"[1]", b'"text"', b"1", b"null", b"true", b"[]", b' [\n{"a":1}]'])
def test_json_has_to_be_an_object(body: bytes) -> None:
    assert reason(body, **JSON) == "not-an-object"


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("charset", "text"),
    {
        "latin-1": "ä",
        "windows-1252": "€",
        "utf-16": "ä🐇",
        "utf-16-be": "ä",
        "utf-8-sig": "ä",
        "utf-32": "🐇",
        "shift_jis": "日本",
        "gb18030": "中",
        "koi8-r": "Ж",
        "ISO-8859-15": "€",
    }.items(),
)
def test_json_in_another_charset_is_transcoded(charset: str, text: str, trust: bool) -> None:
    body = f'{{"text":\n"{text}"}}'.encode(charset)
    expected = f'{{"text": "{text}"}}'.encode()
    assert document(body, trust=trust, content_type="application/json", content_encoding=charset) == expected
    assert document(body, trust=trust, content_type=f"application/json; charset={charset}") == expected


def test_the_parameter_goes_before_the_encoding() -> None:
    declared = {"content_type": "text/plain; charset=latin-1", "content_encoding": "utf-8"}
    assert orjson.loads(document(b"\xe4", **declared)) == {"message": "ä"}


@pytest.mark.parametrize(
    "declared",
    [
        {"content_type": "text/plain"},
        {"content_type": "text/plain", "content_encoding": "binary"},
        {"content_type": "text/plain", "content_encoding": "8bit"},
        {"content_type": "TEXT/HTML;charset=utf8"},
        {"content_type": "application/xml"},
        {"content_type": "image/svg+xml"},
        {"content_type": "application/x-yaml", "content_encoding": "utf-8"},
        {"content_type": "application/unheard-of", "content_encoding": "utf-8"},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("text", ["hello", "ä🐇\u2028", 'a "quoted"\nline\r\n\x00\x01\\', " ", "[1]", "7"])
def test_text_is_wrapped(declared: dict[str, str], text: str) -> None:
    made = document(text.encode(), **declared)
    assert orjson.loads(made) == {"message": text}
    assert made.splitlines() == [made]


def test_text_that_looks_like_json_stays_text_where_it_is_declared() -> None:
    assert document(b'{"a":1}', content_type="text/plain") == b'{"message":"{\\"a\\":1}"}'


@pytest.mark.parametrize("body", [b'{"a":NaN}', b"{hello}", rb'{"a":"\ud800"}', b'{"a":1} {"b":2}'])
def test_undeclared_text_that_is_no_json_is_text(body: bytes) -> None:
    assert orjson.loads(document(body)) == {"message": body.decode()}


def test_undeclared_json_behind_white_space_is_json() -> None:
    assert document(b' \n {"a":\n1}') == b'{"a": 1}'


@pytest.mark.parametrize(
    "declared",
    [
        {"content_type": "application/octet-stream"},
        {"content_type": "application/octet-stream", "content_encoding": "utf-8"},
        {"content_type": "application/data", "content_encoding": "binary"},
        {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
        {"content_type": "application/x-msgpack", "content_encoding": "binary"},
        {"content_type": "application/unheard-of"},
        {"content_type": "application/unheard-of", "content_encoding": "punycode"},
        {"content_type": "image/png"},
        {"content_encoding": "binary"},
        {"content_type": ["a", "list"]},
        {"content_type": {"a": "table"}},
        {"content_type": 7},
    ],
    ids=str,
)
def test_binary_is_refused(declared: dict[str, Any]) -> None:
    assert reason(pickle.dumps({"a": 1}), **declared) == "binary"


@pytest.mark.parametrize("charset", ["punycode", "idna", "zlib_codec", "zlib-codec", "bz2", "rot13", "hex"])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json", None])
def test_codecs_that_are_no_charsets_are_refused_unused(charset: str, content_type: str | None) -> None:
    given = {"content_type": content_type} if content_type else {}
    assert reason(b"{}" + b"a-" * 200_000, content_encoding=charset, **given) == "bad-charset"


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (b"\xff", "utf-8"),
        (b"\xe4", "ascii"),
        (b"\x81", "cp1252"),
        (b"a", "utf-16"),
        (b"\x00\xd8", "utf-16-le"),
    ],
)
def test_text_that_is_not_in_its_charset_is_refused(body: bytes, charset: str) -> None:
    assert reason(body, content_type="text/plain", content_encoding=charset) == "bad-charset"


def test_undeclared_bytes_that_are_no_text_are_refused() -> None:
    assert reason(b"\x80\x04\x95secret") == "bad-charset"


@pytest.mark.parametrize(
    "declared", [{}, JSON, {"content_type": "text/plain"}, {"content_type": "image/png"}]
)
def test_an_empty_body_is_refused(declared: dict[str, str]) -> None:
    assert reason(b"", **declared) == "empty-body"


def test_the_bound_is_on_the_document() -> None:
    body = b'{"a":"%b"}' % (b"x" * 92)
    assert len(body) == 100
    assert document(body, limit=100, **JSON) == body
    assert reason(body, limit=99, **JSON) == "too-large"
    assert reason(body, limit=99, trust=True, **JSON) == "too-large"
    assert reason(b"\x01" * 50, limit=100, content_type="text/plain") == "too-large", "escapes count"


COMPRESSORS = {
    "application/x-gzip": zlib.compress,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "XZ": lzma.compress,
}


@pytest.mark.parametrize(("method", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
@pytest.mark.parametrize("trust", [False, True])
def test_compressed_bodies_are_inflated(method: str, compress: Any, trust: bool) -> None:
    headers = {"compression": method}
    assert document(compress(b'{"a":\n1}'), headers=headers, trust=trust, **JSON) == b'{"a": 1}'
    assert document(compress("ä".encode()), headers=headers, trust=trust) == '{"message":"ä"}'.encode()
    assert reason(compress(b"{"), headers=headers, **JSON) == "bad-json"
    assert reason(compress(b""), headers=headers, **JSON) == "empty-body"


@pytest.mark.parametrize("method", ["gzip", "deflate"])
def test_an_encoding_may_be_a_compression(method: str) -> None:
    body = zlib.compress(b'{"a":1}') if method == "deflate" else gzip.compress(b'{"a":1}')
    declared = {"content_type": "application/json", "content_encoding": method}
    assert document(body, **declared) == b'{"a":1}'
    assert document(body, headers={"compression": "application/x-gzip"}, **declared) == b'{"a":1}', (
        "said twice"
    )


@functools.cache
def bomb_of(compress: Any) -> bytes:
    return compress(b"{" + b" " * 32 * LIMIT + b"}")  # type: ignore[no-any-return]


@pytest.mark.parametrize(("method", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
def test_a_bomb_is_refused_without_being_inflated(method: str, compress: Any) -> None:
    bomb = bomb_of(compress)
    given = {"headers": {"compression": method}, "limit": LIMIT, **JSON}
    reason(bomb, **given)
    tracemalloc.start()
    try:
        assert reason(bomb, **given) == "compressed"
        assert tracemalloc.get_traced_memory()[1] < 16 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_header_that_asks_for_gigabytes_is_refused() -> None:
    """LZMA's decoder takes the memory that the first bytes name, whatever follows them."""
    honest = lzma.compress(b'{"a":1}', format=lzma.FORMAT_ALONE)
    given = {"headers": {"compression": "lzma"}, **JSON}
    assert document(honest, **given) == b'{"a":1}'
    assert reason(honest[:1] + b"\xff\xff\xff\xff" + honest[5:], **given) == "compressed"


@pytest.mark.parametrize(("method", "compress"), COMPRESSORS.items(), ids=COMPRESSORS)
@pytest.mark.parametrize(
    "damage", [lambda body: body[:-3], lambda body: body + b"more", lambda body: b"not it"]
)
def test_a_damaged_compressed_body_is_refused(method: str, compress: Any, damage: Any) -> None:
    assert reason(damage(compress(b'{"a":1}')), headers={"compression": method}, **JSON) == "compressed"


@pytest.mark.parametrize("method", ["application/zstd", "brotli", "rot13", 7, ["gzip"], b"gzip"])
def test_an_unknown_compression_is_refused(method: Any) -> None:
    assert reason(b"\x00body", headers={"compression": method}, **JSON) == "compressed"


def test_an_unknown_compression_by_encoding_is_refused() -> None:
    assert reason(b"\x00body", content_encoding="zstd", content_type="application/json") == "compressed"


@pytest.mark.parametrize(
    ("body", "declared"),
    [
        (b'{"secret": secret}', JSON),
        (b"secret\xff", {"content_type": "text/plain"}),
        (b"secret\xff", {"content_type": "text/plain", "content_encoding": "charset-" * 50}),
        (b"secret", {"content_type": "image/png"}),
        (b"secret", {"content_type": "application/json", "content_encoding": "gzip"}),
        (b'["secret"]', JSON),
    ],
)
def test_a_refusal_never_shows_the_body(body: bytes, declared: dict[str, str]) -> None:
    with pytest.raises(MessageRefusedError) as caught:
        document(body, **declared)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 150


def test_forms_are_remembered_in_bounds() -> None:
    from aggregator.content import form_of

    for number in range(2000):
        assert orjson.loads(document(b"x", content_type=f"text/type-{number}")) == {"message": "x"}
    assert form_of.cache_info().currsize <= 512
