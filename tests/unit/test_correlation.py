"""Expressions: every kind, what is absent, what is no text, and what is no expression."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aggregator.correlation import PROPERTIES, compile_expression, compile_match
from aggregator.errors import ConfigurationError, MessageRefusedError
from aggregator.testing.memory import MemoryDelivery

BODY = b'{"user": {"id": 7, "name": "\\u00e9", "tags": ["x", "y"]}, "a/b": 1, "m~n": 2, "": 3, "none": null}'


def message(body=BODY, **given):
    return MemoryDelivery(body, **given)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("correlation_id", "c-1"),
        ("property:correlation_id", "c-1"),
        ("property:of-our-own", "p"),
        ("header:tenant", "t-1"),
        ("routing_key", "orders.new"),
        ("exchange", "orders"),
        ("constant:all of them", "all of them"),
        ("constant:a:b", "a:b"),
        ("/user/id", "7"),
        ("/user/name", "é"),
        ("/user/tags/1", "y"),
        ("/a~1b", "1"),
        ("/m~0n", "2"),
        ("/", "3"),
    ],
)
def test_what_is_there(text, value):
    delivery = message(
        properties={"correlation_id": "c-1", "of-our-own": "p"},
        headers={"tenant": "t-1"},
        exchange="orders",
        routing_key="orders.new",
    )
    assert compile_expression(text)(delivery) == value


@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_every_property_has_its_name(name):
    assert compile_expression(name)(message(properties={name: "value"})) == "value"


@pytest.mark.parametrize(
    "text",
    [
        "message_id", "header:absent", "property:absent", "/absent", "/user/absent", "/user/tags/2",
        "/user/tags/-1", "/user/tags/one", "/user/tags/²", "/user/id/deeper", "/none", "/user/name/0",
    ],
)  # fmt: skip
def test_what_is_absent_is_none(text):
    assert compile_expression(text)(message()) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-12, "-12"),
        (1.5, "1.5"),
        (b"bytes", "bytes"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
    ],
)
def test_what_is_no_text_becomes_one(value, text):
    assert compile_expression("header:h")(message(headers={"h": value})) == text


@pytest.mark.parametrize("value", [[], {}, ["x"], {"x": 1}, b"\xff", object()])
def test_what_cannot_become_text_is_refused(value):
    with pytest.raises(MessageRefusedError) as refused:
        compile_expression("header:h")(message(headers={"h": value}))
    assert refused.value.reason == "bad-value"


@pytest.mark.parametrize("pointer", ["/user", "/user/tags"])
def test_a_list_or_an_object_is_refused(pointer):
    with pytest.raises(MessageRefusedError) as refused:
        compile_expression(pointer)(message())
    assert refused.value.reason == "bad-value"


@pytest.mark.parametrize("body", [b"", b"text", b'{"a": NaN}', b'{"a"', b"\xff", b'"\\ud800"'])
def test_a_body_that_is_no_json_is_refused_and_never_quoted(body):
    with pytest.raises(MessageRefusedError) as refused:
        compile_expression("/a")(message(body))
    assert refused.value.reason == "bad-json"
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("body", [b"7", b"null", b'"text"', b"[]"])
def test_other_json_has_no_such_field(body):
    assert compile_expression("/a")(message(body)) is None


def test_the_body_is_parsed_once():
    delivery = message()
    assert compile_expression("/user/id")(delivery) == "7"
    assert delivery.parsed
    delivery.body = b"changed"
    assert compile_expression("/user/name")(delivery) == "é"


@pytest.mark.parametrize(
    "text", ["", "headers:x", "header:", "constant:", "property:", "user/id", "id", ":x"]
)
def test_what_is_no_expression_names_its_field(text):
    with pytest.raises(ConfigurationError) as wrong:
        compile_expression(text, "routes.logs.correlate")
    assert wrong.value.field == "routes.logs.correlate"
    assert repr(text) in wrong.value.problem
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("type=end", True),
        ("type=en", False),
        ("header:last=true", True),
        ("header:eq=a=b", True),
        ("header:absent=", False),
        ("header:empty=", True),
    ],
)
def test_a_match(text, matches):
    delivery = message(properties={"type": "end"}, headers={"last": True, "eq": "a=b", "empty": ""})
    assert compile_match(text)(delivery) is matches


@pytest.mark.parametrize("text", ["type", "", "nonsense=1"])
def test_what_is_no_match_names_its_field(text):
    with pytest.raises(ConfigurationError) as wrong:
        compile_match(text)
    assert wrong.value.field == "sentinel"
