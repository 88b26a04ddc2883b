"""Expressions over a message: which group it belongs to, which id its document gets.

An expression is a name of AMQP's basic properties (``correlation_id``), ``routing_key``,
``exchange``, ``header:NAME``, ``property:NAME``, a JSON pointer into the body (``/user/id``,
RFC 6901), or ``constant:TEXT``. It is compiled once, at the start.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from aggregator.errors import ConfigurationError, MessageRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.delivery import Delivery

    Expression = Callable[[Delivery], str | None]

PROPERTIES = frozenset({
    "app_id",
    "content_encoding",
    "content_type",
    "correlation_id",
    "delivery_mode",
    "expiration",
    "message_id",
    "priority",
    "reply_to",
    "timestamp",
    "type",
    "user_id",
})  # fmt: skip

HELP = (
    "a property (correlation_id, message_id, …), routing_key, header:NAME, or a JSON pointer such as /user/id"
)


def compile_expression(text: str, field: str = "correlate") -> Expression:
    """Return the function that reads ``text`` from a delivery: a string, or None where it is absent.

    Numbers and booleans become their JSON text. The function raises ``MessageRefusedError`` where
    the body has to be JSON and is not (``bad-json``), or the value is a list or an object
    (``bad-value``). A text that is no expression raises ``ConfigurationError`` for ``field``.
    """
    kind, colon, name = text.partition(":")
    if text.startswith("/"):
        return _pointer(text)
    if text in PROPERTIES:
        return _property(text)
    if text in {"routing_key", "exchange"}:
        return attrgetter(text)
    if colon and name and kind in {"header", "property", "constant"}:
        return {"header": _header, "property": _property, "constant": _constant}[kind](name)
    raise ConfigurationError(field, f"{text!r} is no expression; {HELP} is needed")


def _text(value: Any, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise MessageRefusedError("bad-value", f"{where} is not UTF-8") from None
    if hasattr(value, "isoformat"):  # AMQP's timestamp arrives as a datetime
        return str(value.isoformat())
    raise MessageRefusedError("bad-value", f"{where} is a {type(value).__name__}, not a string or number")


def _property(name: str) -> Expression:
    def read(delivery: Delivery) -> str | None:
        return _text(delivery.properties.get(name), name)

    return read


def _header(name: str) -> Expression:
    where = f"header {name}"

    def read(delivery: Delivery) -> str | None:
        return _text(delivery.headers.get(name), where)

    return read


def _constant(value: str) -> Expression:
    def read(_delivery: Delivery) -> str:
        return value

    return read


def _pointer(text: str) -> Expression:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")]

    def read(delivery: Delivery) -> str | None:
        value = delivery.json()
        for step in steps:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return _text(value, text)

    return read


def compile_match(text: str, field: str = "sentinel") -> Callable[[Delivery], bool]:
    """Return the test that ``EXPRESSION=VALUE`` stands for; raises as :func:`compile_expression`."""
    expression, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(field, f"{text!r} names no value; EXPRESSION=VALUE is needed")
    read = compile_expression(expression, field)
    return lambda delivery: read(delivery) == value
