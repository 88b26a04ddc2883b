"""From a delivery to its document: one line of JSON in UTF-8. Pure, and on the way of every message.

JSON goes through as the bytes that came: checked, never serialised again. Other text becomes
``{"message": …}``. What is neither is refused with its reason.

The check (orjson) is that of JSON: strict UTF-8, no NaN, no lone surrogates, nothing beyond a
double, at most 1,024 levels. Some JSON passes it that a store may still refuse, each document for
itself. Elasticsearch 9 does with two keys of one name, a key that is empty, blank or only dots, a
key ``_id``, numbers of more than 1,000 digits, more than 1,000 levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import orjson

from aggregator.content import UNREADABLE, Kind, decompress, form_of
from aggregator.errors import MessageRefusedError

if TYPE_CHECKING:
    from aggregator.content import Form
    from aggregator.delivery import Delivery


class Making(Protocol):
    """Makes documents as :func:`make_document` does; of messages of a form of its own, another way."""

    def __call__(self, delivery: Delivery, *, trust_json: bool, max_bytes: int) -> bytes:
        """Return the document of one delivery; raises ``MessageRefusedError``."""
        ...


#: A number is found in bytes eight times as quickly as a text of one byte.
_LF, _CR = b"\n\r"


def make_document(delivery: Delivery, *, trust_json: bool, max_bytes: int) -> bytes:
    """Return the document of ``delivery``: one line, without a line break, at most ``max_bytes`` long.

    ``trust_json`` skips the check of what is declared as JSON: then its publishers answer for it.

    Raises ``MessageRefusedError`` for one of these reasons, never with the body in its detail:
    ``empty-body``, ``too-large``, ``bad-json``, ``not-an-object``, ``bad-charset``, ``binary``,
    ``compressed`` (an unknown method, damaged, or it would inflate beyond ``max_bytes``).
    """
    try:
        form = form_of(*delivery.declared())
    except TypeError:
        form = UNREADABLE
    body = delivery.body
    if form.plain_json and len(body) <= max_bytes:
        # Nothing that is compressed starts with a brace: no need to decode the headers for it.
        if trust_json:
            if body[:1] == b"{" and body[-1:] == b"}":
                return _one_line(body)
        else:
            try:
                # parsed for its key already, or not yet
                parsed = delivery._json or orjson.loads(body)  # noqa: SLF001
            except orjson.JSONDecodeError:
                parsed = None  # the careful way tells why
            if type(parsed) is dict:
                return _one_line(body)
    return _carefully(delivery, form, trust_json, max_bytes)


def _one_line(body: bytes) -> bytes:
    """Join the lines of valid JSON: in it a line break only stands between tokens."""
    if _LF in body or _CR in body:
        return b" ".join(filter(None, map(bytes.strip, body.splitlines())))
    return body


def _carefully(delivery: Delivery, form: Form, trust_json: bool, max_bytes: int) -> bytes:
    """Make the document of anything but plain JSON, or say why there is none."""
    body = delivery.body
    if not body:
        raise MessageRefusedError("empty-body")
    if form.refusal:
        raise MessageRefusedError(*form.refusal)
    _check_size(body, max_bytes)
    method = delivery.header("compression") or form.compression
    if method:
        body = decompress(body, method, max_bytes)
    if form.kind is Kind.JSON:
        document = _json(body, form.charset, trust_json)
    else:
        found = _object(body, form.charset) if form.kind is Kind.UNKNOWN else None
        document = found or orjson.dumps({"message": _decode(body, form.charset)})
    _check_size(document, max_bytes)
    return document


def _check_size(data: bytes, max_bytes: int) -> None:
    if len(data) > max_bytes:
        raise MessageRefusedError("too-large", f"{len(data)} bytes, {max_bytes} are allowed")


def _decode(body: bytes, charset: str) -> str:
    try:
        return body.decode(charset)
    except UnicodeError as exc:
        # its text would show a byte of the body
        problem = f"not {charset} at byte {getattr(exc, 'start', 0)}"
    raise MessageRefusedError("bad-charset", problem)


def _json(body: bytes, charset: str, trust_json: bool) -> bytes:
    """Return declared JSON as one line of UTF-8."""
    if charset != "utf_8":
        body = _decode(body, charset).encode()
    if trust_json:
        is_object = body.strip()[:1] == b"{"
    else:
        try:
            is_object = type(orjson.loads(body)) is dict
        except orjson.JSONDecodeError as exc:
            problem = str(exc)  # a sentence and a position; the body hangs on the exception itself
        else:
            problem = ""
        if problem:
            raise MessageRefusedError("bad-json", problem)
    if not is_object:
        raise MessageRefusedError("not-an-object", "the body is JSON, but not an object")
    return _one_line(body)


def _object(body: bytes, charset: str) -> bytes | None:
    """Return a body of no declared type as JSON if it is an object of JSON, else ``None``."""
    if charset == "utf_8" and body.lstrip()[:1] != b"{":
        return None  # the most common text; spares the exception
    try:
        return _json(body, charset, trust_json=False)
    except MessageRefusedError:
        return None
